"""What a row says, in one form whatever its file's: the problem, the prompt, the answer, the level."""

import json
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from full.data.files import Cell
from full.rewards.answers import last_boxed

Message = dict[str, str]
MAX_DIGITS = 400  # longer numbers are no answers: 1e999999999 would not fit into memory


class Unusable(ValueError):
    """A value that is not what its column should hold; the message says what it is."""


def number_text(value: int | float | Decimal) -> str:
    """A number as an exact decimal without an exponent: 1e-05 is "0.00001", 6.0 is "6", 2**70 has all its digits.

    A float is the shortest decimal that names it, except that a whole number of more digits than a float can promise (15)
    is the float's exact value: 2.0**70 is 1180591620717411303424, and 1e23 is 10**23.

    Raises:
        Unusable: NaN, infinite, or too long.
    """
    exact = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    if not exact.is_finite():
        raise Unusable("NaN" if exact.is_nan() else "infinite")
    digits = len(exact.as_tuple().digits)
    if abs(exact.adjusted()) >= MAX_DIGITS or digits > MAX_DIGITS:
        raise Unusable(f"a number of more than {MAX_DIGITS} digits")
    if isinstance(value, float) and value.is_integer() and digits > 15:
        exact = Decimal(int(value))
    text = f"{exact:f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


def level_name(value: Any) -> str:
    """The one name of a level: 3, 3.0, "3", "level 3" and "Level 3" are "Level 3"; other names stay; nothing is ""."""
    try:
        text = number_text(value) if isinstance(value, int | float | Decimal) else str("" if value is None else value)
    except Unusable:
        return ""
    text = text.strip()
    bare = re.sub(r"(?i)^level\b[\s:_-]*", "", text)
    try:
        return f"Level {number_text(Decimal(bare))}"
    except (InvalidOperation, Unusable):
        return text


def same_level(one: str, other: str) -> bool:
    """Whether two levels are the same; "Hard", "hard" and "level hard" are."""
    one, other = (level_name(name).casefold().removeprefix("level").strip() for name in (one, other))
    return one == other


def stated_answer(text: str) -> str | None:
    r"""What a solution ends in: the content of its last box, or what follows #### in its last line (GSM8K)."""
    boxed = last_boxed(text)
    if boxed is not None:
        return boxed
    marked = re.search(r"####[ \t]*(\S[^\n]*?)\s*\Z", text)
    if marked is None:
        return None
    return re.sub(r"(?<=\d),(?=\d{3}\b)", "", marked[1])  # GSM8K writes 1,080 and its authors take the commas out


def answer_text(value: Any) -> str | list[str]:
    """The answer that a value stands for; of a list, the set of accepted answers.

    Raises:
        Unusable: it is none; says what it is.
    """
    if value is None:
        raise Unusable("null")
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int | float | Decimal):
        return number_text(value)
    if isinstance(value, str):
        if not value.strip():
            raise Unusable("empty")
        number = _number_of_cell(value) if isinstance(value, Cell) else None
        return number_text(number) if number is not None else stated_answer(value) or str(value)
    if isinstance(value, list | tuple):
        if any(isinstance(member, list | tuple) for member in value):
            raise Unusable("a list of lists")
        accepted = list(dict.fromkeys(str(answer_text(member)) for member in value))
        if not accepted:
            raise Unusable("an empty list")
        return accepted
    raise Unusable("an object" if isinstance(value, Mapping) else f"a {type(value).__name__}")


def chat_messages(value: Any) -> list[Message]:
    """Chat messages as the template takes them; a text is the user's.

    Raises:
        Unusable: no messages, or a content that is no text.
    """
    if isinstance(value, Cell) and value.lstrip().startswith("[{"):
        try:
            value = json.loads(value)
        except ValueError:
            raise Unusable("chat messages that are not written as JSON") from None
    if isinstance(value, str) and value.strip():
        return [{"role": "user", "content": str(value)}]
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise Unusable("null" if value is None else "empty" if not value else f"a {type(value).__name__}")
    found = []
    for message in value:
        if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
            raise Unusable("a list whose members are no messages with role and content")
        role, content = message["role"], message["content"]
        if not isinstance(role, str) or not isinstance(content, str):
            raise Unusable(f"a message of {role!r} whose content is no text")
        found.append({"role": role, "content": content})
    return found


def problem_text(value: Any) -> str:
    """A problem's text.

    Raises:
        Unusable: no text, a blank one, or one that no file in UTF-8 can hold.
    """
    if not isinstance(value, str):
        raise Unusable("null" if value is None else f"{value!r:.40}, a {type(value).__name__}")
    if not value.strip():
        raise Unusable("empty")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise Unusable("a text with half a surrogate pair")
    return str(value)


def _number_of_cell(cell: str) -> float | Decimal | None:
    """The number of a cell that a program or a spreadsheet wrote as a float; None is a text, or digits to keep."""
    try:
        value = float(cell)
    except ValueError:
        return None
    if repr(value) == cell or value != value:
        return value
    return Decimal(cell) if re.fullmatch(r"[+-]?\d+(\.\d+)?E[+-]?\d{2,3}", cell.strip()) else None
