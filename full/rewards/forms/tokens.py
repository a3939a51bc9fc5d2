"""Tokens of a cleaned text, and the numbers among them: thousands separators and repeating decimals."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from full.rewards.forms.characters import END_TEXT, TEXT, THOUSANDS_COMMA
from full.rewards.forms.records import Unreadable


@dataclass(frozen=True)
class Token:
    """kind: "number", "word", "command", "space", "half" (a.m./p.m.) or "mark"; text; marked: it stood in text."""

    kind: str
    text: str
    marked: bool = False


Tokens = list[Token]

_TOKEN = re.compile(
    r"(?P<half>(?<![a-zA-Z])[aApP]\.\s?[mM]\.?(?![a-zA-Z])|(?<![a-zA-Z])[AP]M(?![a-zA-Z]))"
    r"|(?P<number>\d+(?:\.\d+)?|\.\d+)"
    r"|(?P<command>\\[a-zA-Z]+|\\.)"
    r"|(?P<word>[a-zA-Z]+(?:['-][a-zA-Z]+)*)"
    r"|(?P<space>\s+)"
    r"|(?P<mark>.)",
    re.DOTALL,
)


def tokenize(text: str) -> Tokens:
    tokens: Tokens = []
    marked = 0
    for match in _TOKEN.finditer(text):
        kind, value = match.lastgroup or "mark", match[0]
        if value == TEXT:
            marked += 1
            tokens.append(Token("space", "", True))  # \text{5}0 is no 50, and "5\text{m}" may be a unit
        elif value == END_TEXT:
            marked = max(0, marked - 1)
            tokens.append(Token("space", "", True))
        elif kind == "half" and "." not in value and not any(t.kind == "number" for t in tokens[-3:]):
            tokens.append(Token("word", value, bool(marked)))  # a segment AM
        elif kind == "word" and not marked and ("-" in value or "'" in value):
            # Outside text a hyphen is a minus.
            for piece in re.findall(r"[a-zA-Z]+|['-]", value):
                tokens.append(Token("word" if piece.isalpha() else "mark", piece, False))
        else:
            tokens.append(Token(kind, value, bool(marked)))
    return tokens


def is_sign(token: Token, *texts: str) -> bool:
    return token.text in texts and token.kind in ("mark", "command")


def join(tokens: Tokens) -> str:
    """The tokens as one text without spaces, for patterns; marked words in lower case."""
    words = [t.text.lower() if t.marked and len(t.text) > 1 else t.text for t in tokens if t.kind != "space"]
    return "".join(words).replace(THOUSANDS_COMMA, ",")


def spell(tokens: Tokens) -> str:
    """The tokens as one text to compare: spaces only where numbers or words would run together."""
    out, spaced = "", False
    for token in tokens:
        if token.kind == "space":
            spaced = True
            continue
        text = token.text.lower() if token.marked and len(token.text) > 1 else token.text
        out += (" " if spaced and out[-1:].isalnum() and text[:1].isalnum() else "") + text
        spaced = False
    return out.replace(THOUSANDS_COMMA, ",")


_OPENERS = frozenset(["(", "[", "{", "\\{", "\\langle", "\\lfloor", "\\lceil", "\\begin"])

_CLOSERS = frozenset([")", "]", "}", "\\}", "\\rangle", "\\rfloor", "\\rceil", "\\end"])


def depths(tokens: Tokens) -> Iterator[tuple[int, int, Token]]:
    """(index, depth, token), where a bracket has the depth outside of it."""
    depth = 0
    for index, token in enumerate(tokens):
        if token.kind in ("mark", "command") and token.text in _CLOSERS:
            depth -= 1
        yield index, depth, token
        if token.kind in ("mark", "command") and token.text in _OPENERS:
            depth += 1


_STOPS = (".", ",", ";", ":", THOUSANDS_COMMA, "\\\\")


def strip(tokens: Tokens) -> Tokens:
    """Without spaces and stops at the ends, and without braces around all of it."""
    while True:
        start, end = 0, len(tokens)
        while start < end and tokens[start].kind == "space":
            start += 1
        while end > start and (tokens[end - 1].kind == "space" or is_sign(tokens[end - 1], *_STOPS)):
            if end - start > 2 and all(is_sign(token, ".") for token in tokens[end - 3 : end]):
                break  # "5..." goes on
            end -= 1
        tokens = tokens[start:end]
        if len(tokens) > 1 and tokens[0].text == "{" and closing(tokens, 0) == len(tokens) - 1:
            tokens = tokens[1:-1]
        else:
            return tokens


def strip_spaces(tokens: Tokens) -> Tokens:
    while tokens and tokens[0].kind == "space":
        tokens = tokens[1:]
    while tokens and tokens[-1].kind == "space":
        tokens = tokens[:-1]
    return tokens


def closing(tokens: Tokens, start: int) -> int:
    """The index of the bracket that closes the one at start; -1 without one."""
    depth = 0
    for index in range(start, len(tokens)):
        token = tokens[index]
        if token.kind in ("mark", "command"):
            depth += (token.text in _OPENERS) - (token.text in _CLOSERS)
            if depth == 0:
                return index
    return -1


def split_commas(tokens: Tokens) -> list[Tokens]:
    parts: list[Tokens] = [[]]
    semicolon = any(depth == 0 and is_sign(token, ";") for _, depth, token in depths(tokens))
    for _, depth, token in depths(tokens):
        if depth == 0 and (is_sign(token, ";") or (not semicolon and is_sign(token, ",", THOUSANDS_COMMA))):
            parts.append([])
        else:
            parts[-1].append(token)
    if len(parts) > 1 and any(not strip(part) for part in parts):
        raise Unreadable
    return parts


def next_solid(tokens: Tokens, index: int) -> int | None:
    while index < len(tokens) and tokens[index].kind == "space":
        index += 1
    return index if index < len(tokens) else None


def merge_thousands(tokens: Tokens, plain_comma: bool) -> Tokens:
    """Groups of three digits become one number: 10{,}000, 10\\,000, 10 000, and 10,000 where plain_comma."""
    merged: Tokens = []
    index = 0
    while index < len(tokens):
        first = tokens[index]
        if first.kind == "number" and re.fullmatch(r"[1-9]\d{0,2}", first.text) and not _after_number(merged):
            digits, end, used = first.text, index + 1, None
            while True:
                separator, after = _separator(tokens, end, plain_comma)
                if separator is None or (used is not None and separator != used):
                    break
                group = tokens[after]
                if not re.fullmatch(r"\d{3}(\.\d+)?", group.text) or "." in digits:
                    break
                digits, end, used = digits + group.text, after + 1, separator
            # "1,234,5" is no number with separators; neither is "1 000 0".
            separator, after = _separator(tokens, end, True)
            if used is not None and (
                separator is None or separator not in (used, ",") or (used == " " and separator == ",")
            ):
                merged.append(Token("number", digits, first.marked))
                index = end
                continue
        merged.append(first)
        index += 1
    return merged


def _after_number(tokens: Tokens) -> bool:
    """Whether what is next would continue a number or a list of numbers that was not merged."""
    before = [t for t in tokens[-3:] if t.kind != "space"]
    if before and before[-1].kind == "number":
        return True
    return len(before) > 1 and before[-1].text in (",", THOUSANDS_COMMA) and before[-2].kind == "number"


def _separator(tokens: Tokens, index: int, plain_comma: bool) -> tuple[str | None, int]:
    """(what separates the number before index from the number after it, the index of that number)."""
    following = tokens[index : index + 2]
    if len(following) == 2 and following[1].kind == "number":
        if following[0].text == THOUSANDS_COMMA:
            return THOUSANDS_COMMA, index + 1
        if following[0].kind == "space" and following[0].text:
            return " ", index + 1
        if plain_comma and following[0].text == ",":
            return ",", index + 1
    return None, index


def merge_repeating(tokens: Tokens) -> Tokens:
    r"""0.1\overline{6}, 0.(3), 0.\dot{3}, 0.333... become numbers with the repeated digits in brackets: 0.1[6]."""
    out: Tokens = []
    index = 0
    while index < len(tokens):
        token = tokens[index]
        rest = "".join(t.text for t in tokens[index : index + 24])
        match = token.kind in ("number", "mark") and (
            re.match(r"(\d*)\.(\d*)\\overline\s*(?:\{\s*(\d+)\s*\}|(\d)(?!\d))", rest)
            or re.match(r"(\d*)\.(\d*)\\dot\s*\{?\s*(\d)\s*\}?(?:(\d*)\\dot\s*\{?\s*(\d)\s*\}?)?", rest)
            or re.match(r"(\d+)\.()\((\d+)\)", rest)
        )
        if match:
            whole, start, *blocks = match.groups()
            block = "".join(b for b in blocks if b)
            length, consumed = len(match[0]), 0
            while consumed < length:
                consumed += len(tokens[index].text)
                index += 1
            if consumed == length:
                out.append(Token("number", f"{whole or '0'}.{start}[{block}]"))
                continue
            index -= 1
        elif (
            token.kind == "number"
            and "." in token.text
            and re.match(r"[\d.]+\s*(?:\\ldots|\\dots|\\cdots|\.\.\.|…)", rest)
        ):
            whole, decimals = token.text.split(".")
            seen = re.fullmatch(r"(\d*?)(?:(\d)\2{2,}|(\d{2,6}?)\3+)", decimals)
            end = index + 1
            while end < len(tokens) and tokens[end].text in (".", " ", "…", "\\ldots", "\\dots", "\\cdots"):
                end += 1
            if seen:
                out.append(Token("number", f"{whole}.{seen[1]}[{seen[2] or seen[3]}]"))
                index = end
                continue
        out.append(tokens[index])
        index += 1
    return out


def exact(number: str) -> Fraction:
    """The value of a decimal, with repeated digits in brackets."""
    if "[" not in number:
        return Fraction(number if not number.startswith(".") else "0" + number)
    plain, block = number[:-1].split("[")
    whole, start = plain.split(".")
    shift = 10 ** len(start)
    return Fraction(int(whole + start), shift) + Fraction(int(block), shift * (10 ** len(block) - 1))
