r"""The answer of a text: its last box after any thinking, and the verdicts that need no algebra.

Everything here runs in the trainer's own process without a limit, so all of it is linear in the text.
"""

import re
from fractions import Fraction

# Longer or deeper answers than any in MATH are refused: comparing them can only cost time.
MAX_ANSWER_CHARACTERS = 400


MAX_NESTING = 12


# How reasoning models mark their thinking; the answer is what follows the last end.
_THINKING = re.compile(r"<(/?)\s*(?:think|thinking|thought|reasoning)\s*>|\[(/?)THINK\]", re.IGNORECASE)

# A box, an escaped character (so that "\\}" and "\{" are no braces), a brace.
_BRACES = re.compile(r"(\\(?:boxed|fbox)\s*\{)|\\.|[{}]", re.DOTALL)


def final_answer(completion: str) -> str | None:
    r"""Content of the last \boxed{...} of a completion, not counting what is in its thinking; None if there is none.

    Only what follows the end of thinking is an answer: a box in finished or unfinished thinking is a draft.
    """
    return last_boxed(after_thinking(completion))


def after_thinking(completion: str) -> str:
    """What follows the last end of thinking; "" if the thinking has not ended; all of a completion without thinking."""
    if "<" not in completion and "[" not in completion:
        return completion
    start, open_ = 0, False
    for mark in _THINKING.finditer(completion):
        open_ = not (mark[1] or mark[2])
        start = mark.end()
    return "" if open_ else completion[start:]


def thinking_opened_by(prompt: str) -> str:
    """The mark with which a prompt's end opens thinking, as some chat templates do; "" if it ends otherwise.

    The completion then begins in the middle of thinking, without the mark that `after_thinking` looks for.
    """
    *_, last = (None, *_THINKING.finditer(prompt))
    if last is None or last[1] or last[2] or prompt[last.end() :].strip():
        return ""
    return last[0]


def last_boxed(text: str) -> str | None:
    r"""Content of the last complete \boxed{...} (or \fbox{...}) of a text, braces matched; None if there is none.

    One pass over the braces: 4,000 boxes that never close take milliseconds.
    """
    if "boxed" not in text and "fbox" not in text:
        return None
    open_: list[int] = []  # for each open brace: where a box's content starts, or -1
    best, end = -1, -1  # the complete box that starts last
    for match in _BRACES.finditer(text):
        if match[1]:
            open_.append(match.end())
        elif match[0] == "{":
            open_.append(-1)
        elif match[0] == "}" and open_:
            start = open_.pop()
            if start > best:
                best, end = start, match.start()
    if best >= 0:
        return text[best:end].strip()
    bare = re.findall(r"\\boxed\s+([^\s${}\\]+)", text)  # "\boxed 5" occurs in MATH's own solutions
    return bare[-1].rstrip(".,") if bare else None


_INTEGER = re.compile(r"[+-]?\d{1,30}")

_NUMBER = re.compile(
    r"\$?([+-]?)(?:(\d{1,30}(?:\.\d{1,30})?)|(\d{1,30})/(\d{1,30})|\\[dt]?frac\{(\d{1,30})\}\{(\d{1,30})\})\$?"
)


def quick_verdict(given: str | None, gold: str | None) -> bool | None:
    """True or False where no algebra is needed; None where a worker must decide (full/rewards/equality.py)."""
    if given is None or gold is None or not given.strip():
        return False
    given, gold = given.strip(), gold.strip()
    if given == gold:
        return True
    if len(given) > MAX_ANSWER_CHARACTERS or _nesting(given) > MAX_NESTING:
        return False
    # No comma is taken out here: whether it separates thousands or answers is a question of form.
    if _INTEGER.fullmatch(given) and _INTEGER.fullmatch(gold):
        return int(given) == int(gold)
    numbers = [_NUMBER.fullmatch(text) for text in (given, gold)]
    if numbers[0] and numbers[1]:
        values = [_value(number) for number in numbers if number]
        return None not in values and values[0] == values[1]
    return None


def _value(number: re.Match[str]) -> Fraction | None:
    sign, decimal, *fractions = number.groups()
    if decimal:
        value = Fraction(decimal)
    else:
        upper, lower = (int(part) for part in fractions if part)
        if lower == 0:
            return None
        value = Fraction(upper, lower)
    return -value if sign == "-" else value


def _nesting(text: str) -> int:
    depth = deepest = 0
    for character in text:
        depth += (character in "{([") - (character in "})]")
        deepest = max(deepest, depth)
    return deepest
