"""Options as fields of a dataclass: how one is described, read from text, checked and listed. It imports no torch.

An option's metadata say all that a person or a tool needs: help, heading, unit, range, source. A value is checked in Python,
so a configuration built by a program is as safe as one from the command line.
"""

import argparse
import dataclasses
import difflib
import functools
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import yaml

from full.errors import UserError

TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


@dataclass(frozen=True)
class Range:
    """Numbers that an option may have; an open end is not among them.

    low: the smallest.
    high: the largest.
    open_low: whether low itself is left out.
    open_high: whether high itself is left out.
    """

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        return math.isfinite(value) and above and (value < self.high if self.open_high else value <= self.high)

    def words(self, name: str = "") -> str:
        """The range in a formula: "> 0", ">= 1", or "0 <= rho < 1" where both ends count."""
        if math.isinf(self.high):
            return "" if math.isinf(self.low) else f"{'>' if self.open_low else '>='} {self.low:g}"
        left = f"{self.low:g} {'<' if self.open_low else '<='} "
        return f"{left}{name}{' ' * bool(name)}{'<' if self.open_high else '<='} {self.high:g}"


def at_least(low: float) -> Range:
    """Numbers from `low` on."""
    return Range(low=low)


def above(low: float) -> Range:
    """Numbers greater than `low`."""
    return Range(low=low, open_low=True)


def between(low: float, high: float, *, open_low: bool = False, open_high: bool = False) -> Range:
    """Numbers from `low` to `high`."""
    return Range(low, high, open_low, open_high)


def option(
    default: Any,
    help: str,
    *,
    group: str,
    unit: str = "",
    range: Range | None = None,
    source: str = "",
    example: Any = None,
    reason: str = "",
    names: Callable[[], Mapping[str, str]] | None = None,
    free_on_resume: bool = False,
) -> Any:
    """A field of a configuration.

    Args:
        help: a sentence that can be understood alone.
        group: the heading that it stands under.
        unit: of its value.
        range: of its value, or of each value of a list.
        source: where the default is from, e.g. "paper: 0.5" or "ours".
        example: a value to suggest where a given one is out of range; the default where it is None.
        reason: why the range is what it is, where that is not obvious.
        names: gives the known values with a line about each, for the help text; it must not load torch.
        free_on_resume: whether a resumed run may have another value, since what is computed does not depend on it.
    """
    metadata = {
        "help": help, "group": group, "unit": unit, "range": range, "source": source, "example": example, "reason": reason,
        "names": names, "free_on_resume": free_on_resume,
    }  # fmt: skip
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Kind:
    """What values an option takes, read off its annotation.

    base: bool, int, float or str; of a list, that of its members; dict for named values.
    many: whether it is a list.
    optional: whether it may be None.
    choices: the values of a Literal, or ().
    """

    base: type
    many: bool = False
    optional: bool = False
    choices: tuple[str, ...] = ()

    @property
    def word(self) -> str:
        """What is expected, in words."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        single = {
            bool: "true or false", int: "an integer", float: "a number", str: "a text", dict: "name=value pairs",
        }[self.base]  # fmt: skip
        return f"a list, each {single}" if self.many else single


@functools.cache
def kinds(cls: type) -> dict[str, Kind]:
    """The kind of each option of a configuration's class."""
    return {name: _kind(hint) for name, hint in typing.get_type_hints(cls).items()}


def _kind(hint: Any) -> Kind:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        (inner,) = (argument for argument in arguments if argument is not type(None))
        return dataclasses.replace(_kind(inner), optional=True)
    if origin is list:
        return dataclasses.replace(_kind(arguments[0]), many=True)
    if origin is Literal:
        return Kind(str, choices=arguments)
    return Kind(dict if origin is dict else hint)


def checked(field: dataclasses.Field[Any], kind: Kind, value: Any) -> Any:
    """The value of an option, checked; an integer given for a number becomes one.

    Raises:
        UserError: another type, no known choice (with the nearest one), or out of range.
    """
    name = field.name
    if value is None and kind.optional:
        return None
    if kind.many:
        if not isinstance(value, list | tuple):
            raise UserError(f"{name} is {value!r}; expected {kind.word}, e.g. {name}=[{value!r}].")
        return [checked(field, dataclasses.replace(kind, many=False), member) for member in value]
    if kind.base is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind.base) or (kind.base is int and isinstance(value, bool)):
        raise UserError(f"{name} is {value!r}, a {type(value).__name__}; expected {kind.word}.")
    if kind.choices and value not in kind.choices:
        raise UserError(f"{name} is {value!r}; expected {kind.word}.{suggestion(str(value), kind.choices)}")
    allowed: Range = field.metadata["range"] or Range()
    if isinstance(value, int | float) and not isinstance(value, bool) and value not in allowed:
        example = field.metadata["example"]
        if example is None:
            example = default_of(field)
        because = f", since {field.metadata['reason']}" if field.metadata["reason"] else ""
        hint = "" if example is None else f", e.g. {f'{example:g}' if isinstance(example, float) else example}"
        raise UserError(f"{name} is {value}; expected {_expected(name, kind, allowed)}{because}{hint}.")
    return value


def _expected(name: str, kind: Kind, allowed: Range) -> str:
    if math.isinf(allowed.high) and allowed.low in (0, 1) and kind.base is int:
        return "0 or more" if allowed.low == 0 else "at least 1"
    words = allowed.words(name)
    if not math.isinf(allowed.high):
        return words
    return f"a finite number {words}".strip() if kind.base is float else f"at least {allowed.low:g}"


def default_of(field: dataclasses.Field[Any]) -> Any:
    """The default of an option."""
    return field.default_factory() if callable(field.default_factory) else field.default


def from_words(name: str, kind: Kind, words: Sequence[str]) -> Any:
    """The value of an option from words of the command line.

    Raises:
        UserError: a word that is no value of the option's type.
    """
    if kind.base is dict:
        parts = [part for word in words for part in re.split(r",(?=[^\W\d]\w*=)", word)]  # a=1,b=2 or a=1 b=2
        return dict(_named_value(name, part) for part in parts)
    if kind.optional and kind.base is not str and [word.lower() for word in words] in (["none"], ["null"]):
        return None
    values = [_from_word(name, kind, word) for word in words]
    return values if kind.many else values[0]


def _from_word(name: str, kind: Kind, word: str) -> Any:
    if kind.base is bool:
        if word.lower() not in TRUE + FALSE:
            raise UserError(f"{name} is {word!r}; expected true or false.")
        return word.lower() in TRUE
    try:
        return kind.base(word)
    except ValueError:
        raise UserError(f"{name} is {word!r}; expected {dataclasses.replace(kind, many=False).word}.") from None


def _named_value(name: str, word: str) -> tuple[str, Any]:
    key, equals, text = word.partition("=")
    if not (key.isidentifier() and equals):
        raise UserError(f"{name} has {word!r}; expected name=value, e.g. strength=0.5.")
    value = yaml.safe_load(text)
    if isinstance(value, str):  # YAML 1.1 takes 1e-3, without a point, for a text
        try:
            return key, float(value)
        except ValueError:
            pass
    return key, value


def from_yaml(name: str, kind: Kind, value: Any) -> Any:
    """The value of an option from a YAML file: a text is read as on the command line, a single value may stand for a list.

    Raises:
        UserError: nested values, or a text that is no value of the option's type.
    """
    if kind.base is dict:
        if isinstance(value, dict):
            return {str(key): member for key, member in value.items()}
        return from_words(name, kind, [str(member) for member in (value if isinstance(value, list) else [value])])
    if isinstance(value, dict):
        raise UserError(f"{name} is nested; expected a plain value.")
    if kind.many and value is not None:
        members = value if isinstance(value, list) else [value]
        single = dataclasses.replace(kind, many=False)
        return [from_yaml(name, single, member) for member in members]
    if kind.base is str and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return from_words(name, kind, [value]) if isinstance(value, str) else value


def suggestion(name: str, known: Iterable[str]) -> str:
    """' Did you mean ...?' where one of the known names is close, otherwise nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {close[0]}?" if close else ""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, and for which -1e-05 is a number."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._negative_number_matcher = re.compile(r"-\.?\d")  # Python 3.14's; before it knows no exponents

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


class CommandParser(Parser):
    """The parser of a command beside the trainer, whose errors name --help."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}. See --help for all options.")


def add_options(parser: argparse.ArgumentParser, cls: type) -> None:
    """Add every option of a configuration's class under its heading; what is not given is left out of the result."""
    groups: dict[str, Any] = {}
    kind_of = kinds(cls)
    for field in dataclasses.fields(cls):
        title, kind = field.metadata["group"], kind_of[field.name]
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        groups[title].add_argument(
            f"--{field.name}",
            nargs="?" if kind.base is bool else "*" if kind.base is dict else "+" if kind.many else None,
            const="true" if kind.base is bool else None,
            default=argparse.SUPPRESS,
            metavar=_metavar(kind),
            help=explain(field, kind, with_default=True).replace("%", "%%"),
        )


def _metavar(kind: Kind) -> str:
    if kind.choices:
        return "{" + ",".join(kind.choices) + "}"
    return {bool: "true|false", int: "N", float: "X", str: "TEXT", dict: "NAME=VALUE"}[kind.base]


def explain(field: dataclasses.Field[Any], kind: Kind, *, with_default: bool = False) -> str:
    """An option's help with its known values, unit, range, source and, if wanted, default."""
    about = field.metadata
    known = about["names"]() if about["names"] else {}
    listed = "; ".join(f"{name}: {summary.rstrip('.')}" if summary else name for name, summary in known.items())
    text = about["help"].format(names=listed) if known else about["help"]
    facts = [about["unit"], about["range"].words("x") if about["range"] else "", about["source"]]
    if with_default:
        facts.append(f"default: {_shown(default_of(field))}")
    facts = [fact for fact in facts if fact]
    return f"{text} [{'; '.join(facts)}]" if facts else text


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "none" if value in (None, {}) else f"{value:g}" if isinstance(value, float) else str(value)
