"""What an answer can be: one record for each kind of form."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Expression:
    """One algebraic expression: LaTeX that math-verify's parser reads, with its decimals as exact fractions.

    symbols: the variables in it, to check the parser's reading.  percent: written with a percent sign.
    """

    latex: str
    symbols: frozenset[str]
    percent: bool = False


@dataclass(frozen=True)
class Words:
    r"""A name or a phrase, in lower case.  marked: it stood in \text{}, so a single letter is no variable."""

    text: str
    marked: bool
    expression: Expression | None = None  # "xy" and "F" may also be variables


@dataclass(frozen=True)
class Based:
    """An integer with its base written."""

    digits: str
    base: str


@dataclass(frozen=True)
class Clock:
    """A time of day, such as 12:30 p.m.; half is "a", "p" or ""."""

    hours: int
    minutes: str
    half: str
    ratio: "Ratio | None" = None  # 2:30 without a.m. or p.m. may be a ratio


@dataclass(frozen=True)
class Ratio:
    """a : b (: c ...)."""

    terms: "tuple[Form, ...]"


@dataclass(frozen=True)
class Items:
    """Several answers. kind: "list" (bare, any order), "set" (braces, any order), "tuple" (order matters).

    joint: what stands between them: "and", "or" or ",". It matters to inequalities.
    """

    kind: str
    items: "tuple[Form, ...]"
    joint: str = ","


@dataclass(frozen=True)
class Interval:
    """From left to right; an end is open or closed."""

    left: "Form"
    right: "Form"
    left_open: bool
    right_open: bool


@dataclass(frozen=True)
class Union:
    """A union of intervals and sets."""

    parts: "tuple[Form, ...]"


@dataclass(frozen=True)
class Reals:
    """All real numbers without some."""

    without: "tuple[Form, ...]" = ()


@dataclass(frozen=True)
class Matrix:
    """Rows of entries; a vector is a matrix of one column."""

    rows: "tuple[tuple[Form, ...], ...]"


@dataclass(frozen=True)
class Named:
    """name = value, where name is a lone variable: a name for the answer.

    is_variable: a letter, which another letter contradicts; not a word.  claims: the middle of name = middle = value.
    """

    name: str
    value: "Form"
    is_variable: bool
    claims: "tuple[Form, ...]" = ()
    symbol: "Expression | None" = None  # the name as an expression, where it is one: y = x + 1 is also x - y + 1 = 0


@dataclass(frozen=True)
class Relation:
    """A chain of relations: sides[0] ops[0] sides[1] ops[1] ... with ops among = < > <= >= !=."""

    sides: "tuple[Form, ...]"
    ops: tuple[str, ...]


@dataclass(frozen=True)
class Verbatim:
    """Not understood: equal to the same text only."""

    text: str


Form = (
    Expression | Words | Based | Clock | Ratio | Items | Interval | Union | Reals | Matrix | Named | Relation | Verbatim
)


class Unreadable(Exception):
    """The text is not of the kind that was tried."""
