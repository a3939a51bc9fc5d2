"""Assignments that catch wrong code and explain why: the engine, the assignments, and the grading.

A notebook begins with `me = start("a1", student="ada")`; `me.numbers(name)` gives that student's own numbers and
`me.check(name)` says what is right and what is not yet. A lesson calls `check(exercise, answer)`.

To add an exercise, write three things in the assignment's file (`a1.py` shows all of them) and put the exercise into its
`parts`; nothing else has to be told, and `tests/test_course_mistakes.py` picks it up:

1. *The solution*: a function as a good student would write it. Its signature and docstring become the stub of the student
   version, its body the solution. Where the library has the function, that one is the `referee`.
2. *The checks*: each with a title, points, and `cases(generator, numbers)`, the arguments on which answer and referee are
   compared. Draw cases from the generator only. Where something other than the plain result counts (a gradient, a whole
   run), give a `probe(answer, *case)`; where there is no referee, let the probe raise `NotYet("why")` and return True.
3. *At least ten mistakes*: a name for the class summary, what is said to the student, and the wrong solution. The engine
   runs them on the same cases and names the one that agrees with the answer. Two mistakes must differ on some case, and
   the more special one comes first. Zeros, NaN, constants, a constant factor, a wrong shape, exceptions, calls of the
   library and endless loops need no mistake of their own: the engine knows them.

A diagnosis says what was seen and which idea is missing; it does not give the line to be written.
"""

from .catalogue import ASSIGNMENTS, load
from .model import Assignment, Check, Code, Exercise, Mistake, NotYet, Student, Text, Written, prediction
from .session import check, start

__all__ = [
    "ASSIGNMENTS",
    "Assignment",
    "Check",
    "Code",
    "Exercise",
    "Mistake",
    "NotYet",
    "Student",
    "Text",
    "Written",
    "check",
    "load",
    "prediction",
    "start",
]
