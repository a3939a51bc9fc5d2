"""The lessons' predictions and self-tests, kept out of the notebooks, so that no export shows an answer above its question.

One file a lesson, `lesson_01.py`, with two names: `QUESTIONS`, from a short name to a `Question`, and `SELF_TEST`, three
(question, explained answer) pairs. A notebook says

    from toys.questions import ask, self_test

    ask("01.coins", reveal=coins)       # a Predict: the picture that `coins(committed)` draws is shown after the answer
    self_test("01")                     # a SelfTest

To add a question, add an entry to the lesson's file and one `ask` to its notebook. What a learner commits to is kept in
`predictions.jsonl` in the folder of the notebook (`APO_EDU_PREDICTIONS` names another file); the lecturer's view of a folder
of such files is `python -m toys.questions FOLDER`.
"""

from .asking import Question, ask, self_test
from .keeping import class_table, keep, read

__all__ = ["Question", "ask", "class_table", "keep", "read", "self_test"]
