"""The pictures of lessons 05 to 09, one file a lesson, `lesson_05.py`; those of 10, 11 and 13 stand beside their theory.

A function takes what the lesson has computed and returns a `Figure`, or a slider. One that is revealed by a question also
takes `said`, the answer committed to, which goes into its title:

    ask("06.roads", reveal=lambda said: pictures.roads(log_q, paths, said))
"""
