"""One-step word problems for a small language model."""

import random

from full.data.tasks.task import Task

NAMES = ("Ana", "Ben", "Eva", "Ida", "Jan", "Kim", "Lea", "Mia", "Noa", "Sam", "Tom", "Zoe")


THINGS = ("apples", "balls", "books", "cards", "coins", "cups", "eggs", "keys", "pens", "stamps")


SUMS = (
    "{name} has {a} {things} and buys {b} more. How many {things} does {name} have now?",
    "{name} finds {a} {things} on Monday and {b} on Tuesday. How many {things} is that in all?",
    "There are {a} {things} on the table and {b} in a bag. How many {things} are there in all?",
)


DIFFERENCES = (
    "{name} has {a} {things} and gives away {b}. How many {things} are left?",
    "There were {a} {things} on the table. {name} took {b} of them. How many {things} are left?",
    "{name} wants {a} {things} and has {b}. How many more {things} does {name} need?",
)


NUMBERS = {1: (1, 10), 2: (1, 20), 3: (10, 99)}  # smallest and largest, by level


ROWS = 3000  # of each level


# Two worked problems, shown before each one, so that the form of an answer need not be found by chance.
WORD_SUM_EXAMPLES = (
    {"role": "user", "content": "Leo has 5 shells and buys 2 more. How many shells does Leo have now?"},
    {"role": "assistant", "content": "5 + 2 = 7\n\\boxed{7}"},
    {"role": "user", "content": "Leo has 9 shells and gives away 6. How many shells are left?"},
    {"role": "assistant", "content": "9 - 6 = 3\n\\boxed{3}"},
)


def word_sum_rows() -> list[dict[str, str]]:
    """One-step word problems in the MATH schema, half sums and half differences; always the same ones, all distinct.

    Level 1 has numbers up to 10, level 2 up to 20, level 3 of two digits.
    """
    rng = random.Random(0)
    rows: dict[str, dict[str, str]] = {}
    for level, (low, high) in NUMBERS.items():
        while len(rows) < ROWS * level:
            a, b = rng.randint(low, high), rng.randint(low, high)
            if rng.random() < 0.5:
                template, sign, answer = rng.choice(SUMS), "+", a + b
            else:
                a, b = max(a, b), min(a, b)
                template, sign, answer = rng.choice(DIFFERENCES), "-", a - b
            problem = template.format(name=rng.choice(NAMES), things=rng.choice(THINGS), a=a, b=b)
            row = {
                "problem": problem,
                "level": f"Level {level}",
                "type": "Word sums",
                "solution": f"{a} {sign} {b} = {answer}\n\\boxed{{{answer}}}",
            }
            rows.setdefault(problem, row)
    return list(rows.values())


TASK = Task(
    rows=word_sum_rows, examples=WORD_SUM_EXAMPLES, help="One-step word problems in three levels, 9,000 problems."
)
