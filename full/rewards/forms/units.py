"""One value: an expression without its unit, currency or percent sign; or words."""

import re
from dataclasses import replace

from full.rewards.forms.characters import CURRENCY
from full.rewards.forms.records import Expression, Form, Unreadable, Words
from full.rewards.forms.tokens import Token, Tokens, closing, is_sign, join, strip, strip_spaces
from full.rewards.forms.words import LETTER_UNITS, NOT_UNITS, SCALES, SHORT_WORDS, UNIT_ADJECTIVES, UNITS
from full.rewards.forms.writing import has_angles, write_expression


def read_value(tokens: Tokens) -> Form:
    """An expression, perhaps with a unit, or words."""
    tokens = strip(tokens)
    if not tokens:
        raise Unreadable
    words = _read_words(tokens)
    if words is not None:
        return words
    tokens = _without_currency(tokens)
    tokens, percent = _without_percent(tokens)
    scale = 1
    if not percent:
        tokens, scale = _without_scale(tokens)
        tokens = _without_unit(tokens)
        if scale == 1:
            tokens, percent = _without_percent(tokens)
    latex, symbols = write_expression(tokens)
    if scale != 1:
        latex = f"({latex}) \\cdot {scale}"
    return Expression(latex, frozenset(symbols), percent)


def _without_currency(tokens: Tokens) -> Tokens:
    tokens = strip(tokens)

    def is_currency(token: Token) -> bool:
        return (
            token.text == "\x04"
            or token.text in CURRENCY
            or token.text in ("\\euro", "\\pounds", "\\yen", "\\texteuro")
        )

    sign = []
    if tokens and is_sign(tokens[0], "-", "+"):
        sign, rest = tokens[:1], strip_spaces(tokens[1:])
        tokens = rest if rest and (is_currency(rest[0])) else tokens
        sign = sign if rest and is_currency(rest[0]) else []
    if (
        tokens
        and tokens[0].kind == "word"
        and tokens[0].text.lower() in ("us", "usd", "eur", "gbp", "rs", "inr")
        and len(tokens) > 1
    ):
        rest = strip_spaces([t for t in tokens[1:2] if not is_sign(t, ".")] + tokens[2:])
        if rest and (rest[0].kind == "number" or is_currency(rest[0])):
            tokens = rest
    if tokens and is_currency(tokens[0]):
        tokens = tokens[1:]
    while tokens and (is_currency(tokens[-1]) or tokens[-1].kind == "space"):
        tokens = tokens[:-1]
    return strip(sign + tokens)


def _without_percent(tokens: Tokens) -> tuple[Tokens, bool]:
    tokens = strip(tokens)
    if tokens and (
        is_sign(tokens[-1], "%", "\\%") or (tokens[-1].kind == "word" and tokens[-1].text.lower() in ("percent", "pct"))
    ):
        rest = strip(tokens[:-1])
        if rest and rest[-1].kind == "word" and rest[-1].text.lower() == "per":
            return tokens, False
        return rest, True
    if len(tokens) > 2 and tokens[-1].text.lower() == "cent":
        rest = strip(tokens[:-1])
        if rest and rest[-1].text.lower() == "per":
            return strip(rest[:-1]), True
    return tokens, False


def _without_scale(tokens: Tokens) -> tuple[Tokens, int]:
    """5 million (dollars): (5, 1000000)."""
    solid = [i for i, t in enumerate(tokens) if t.kind != "space"]
    for place in solid[1:]:
        token = tokens[place]
        if (
            token.kind == "word"
            and token.text.lower() in SCALES
            and tokens[solid[0]].kind in ("number", "mark", "command")
        ):
            tail = strip_spaces(tokens[place + 1 :])
            if tail and not _is_unit(tail, True):
                raise Unreadable
            return tokens[:place], SCALES[token.text.lower()]
    return tokens, 1


def mark_letter_units(tokens: Tokens, *, numeric: bool) -> Tokens:
    """Mark letters that can only be units, as if they stood in text: km/h, and where the gold is a number 5 m and 5m."""
    marked = list(tokens)
    for index, token in enumerate(tokens):
        if token.kind != "word" or token.marked or token.text not in LETTER_UNITS:
            continue
        before = [t for t in marked[:index] if t.kind != "space"][-2:]
        spaced = index > 0 and tokens[index - 1].kind == "space"
        after_value = bool(before) and (before[-1].kind == "number" or is_sign(before[-1], ")", "}", "\\pi"))
        per = (
            len(before) == 2
            and is_sign(before[-1], "/")
            and before[0].kind == "word"
            and (before[0].marked or (len(before[0].text) > 1 and before[0].text.lower() in UNITS))
        )
        if per or (numeric and after_value and (spaced or token.text == "m")):
            marked[index] = Token("word", token.text, True)
    return marked


def _without_unit(tokens: Tokens) -> Tokens:
    """The value without the unit after it."""
    tokens = strip(tokens)
    angles = has_angles(tokens)
    if angles:
        degree = [Token("mark", "^"), Token("command", "\\circ")]
        tokens = [t for token in tokens for t in (degree if token.text in ("degrees", "degree") else [token])]
    for start in range(1, len(tokens)):
        token = tokens[start]
        if angles and is_sign(token, "^"):
            continue
        if token.kind == "space" or (start and not _may_end_value(tokens[:start])):
            continue
        if token.kind in ("word", "command") or token.marked or is_sign(token, "^", "/"):
            spaced = tokens[start - 1].kind == "space"
            if _is_unit(tokens[start:], spaced, _is_one(tokens[:start])):
                return strip(tokens[:start])
    return tokens


def _may_end_value(tokens: Tokens) -> bool:
    last = next((t for t in reversed(tokens) if t.kind != "space"), None)
    return last is not None and (
        last.kind == "number"
        or (last.kind == "word" and not last.marked and len(last.text) <= 2)
        or is_sign(last, ")", "}", "\\pi", "]", "!", "|")
    )


def _is_one(tokens: Tokens) -> bool:
    return join(tokens) in ("1", "-1")


def _is_unit(tokens: Tokens, spaced: bool, one: bool = False) -> bool:
    """Whether the tokens are a unit and nothing but a unit: cm^2, square inches, miles per hour, ^\\circ C, apples."""
    solid = [t for t in tokens if t.kind != "space"]
    while (solid and is_sign(solid[-1], ".", "(", ")")) or (solid and solid[-1].kind == "space"):
        if is_sign(solid[-1], ")"):
            if not is_sign(solid[0], "("):
                return False
            solid = solid[1:]
        solid = solid[:-1]
    if not solid:
        return False
    if is_sign(solid[0], "^") and len(solid) > 1 and is_sign(solid[1], "\\circ"):
        rest = solid[2:]
        return not rest or (len(rest) == 1 and rest[0].text in ("C", "F", "c", "f")) or _is_unit(rest, True)
    if is_sign(solid[0], "\\circ"):
        return len(solid) == 1 or solid[1].text in ("C", "F")
    if is_sign(solid[0], "\\frac") and len(solid) > 4:
        middle = closing(solid, 1)
        if is_sign(solid[1], "{") and 0 < middle < len(solid) - 1 and is_sign(solid[middle + 1], "{"):
            end = closing(solid, middle + 1)
            upper, lower = solid[2:middle], solid[middle + 2 : end]
            if any(t.kind == "word" and (t.marked or len(t.text) > 1) for t in upper + lower):
                upper, lower = ([replace(t, marked=True) for t in part] for part in (upper, lower))  # km over h
            return end == len(solid) - 1 and _is_unit(upper, True) and _is_unit(lower, True)
        return False
    words: list[Token] = []
    index = 0
    while index < len(solid):
        token = solid[index]
        if token.kind == "word":
            words.append(token)
        elif is_sign(token, "^") and words:
            exponent = re.match(r"\^(?:\{-?[123]\}|-?[123])", join(solid[index:]))
            if exponent is None:
                return False
            consumed = 0
            while consumed < len(exponent[0]):
                consumed += len(solid[index].text)
                index += 1
            continue
        elif (is_sign(token, "/", "\\cdot", ".", "-") and words and index + 1 < len(solid)) or (
            is_sign(token, "/") and not words and index + 1 < len(solid)
        ):
            pass
        else:
            return False
        index += 1
    if not words or not all(token.kind == "word" for token in words):
        return False
    return _are_unit_words(words, spaced, one)


def _are_unit_words(words: list[Token], spaced: bool, one: bool) -> bool:
    lower = [token.text.lower() for token in words]
    if (
        any(word in NOT_UNITS and not (word == "times" and len(words) == 1 and words[0].marked) for word in lower)
        or len(words) > 6
    ):
        return False
    for place, token in enumerate(words):
        word, last = lower[place], place == len(words) - 1
        if len(token.text) == 1:
            if not token.marked or not (word in UNITS or token.text in LETTER_UNITS or token.text in "CFAd"):
                return False
        elif last or lower[place + 1] == "per":
            if word in UNIT_ADJECTIVES:
                return False
            plural = len(word) >= 4 and word.endswith("s") and not word.endswith("ss")
            if not (
                word in UNITS
                or (plural and (token.marked or spaced or len(word) > 4))
                or (one and len(word) > 2 and (token.marked or spaced))
            ):
                return False
        elif not (word in UNITS or token.marked or spaced):
            return False
    return True


def _read_words(tokens: Tokens) -> Form | None:
    """Words (with numbers among them, but not before them): a name, a phrase, a choice."""
    solid = [t for t in tokens if t.kind != "space"]
    while solid and solid[0].text == "(" and solid[-1].text == ")" and closing(solid, 0) == len(solid) - 1:
        solid = solid[1:-1]
    if len(solid) > 1 and solid[-1].text == ")" and solid[0].kind == "word" and len(solid) == 2:
        solid = solid[:-1]  # "C)"
    if not solid or solid[0].kind not in ("word", "half"):
        return None
    first = solid[0]
    marked = any(t.marked for t in solid)
    spaced = any(t.kind == "space" and t.text for t in tokens)
    if all(t.kind in ("word", "half") or is_sign(t, "-", "'", '"', "!", "?", ".") for t in solid):
        text = " ".join(re.findall(r"[a-z]+", " ".join(t.text.lower() for t in solid)))
        expression = None
        if len(solid) == 1 and (len(first.text) == 1 or (not marked and may_be_product(first.text))):
            try:
                latex, symbols = write_expression([Token("word", first.text)])
                expression = Expression(latex, frozenset(symbols))
            except Unreadable:
                pass
        elif (
            not marked
            and not (spaced and any(len(t.text) > 2 for t in solid))
            and all(t.kind == "word" and may_be_product(t.text) for t in solid)
        ):
            return None  # "x y": a product
        elif not marked and any(not t.text.isalpha() for t in solid) and all(len(t.text) == 1 for t in solid):
            return None  # "n!", "a-b"
        elif not marked and first.text in ("pi", "sqrt", "infinity", "inf"):
            return None
        if first.text in ("pi", "infinity", "inf") and len(solid) == 1:
            return None
        return Words(text, marked, expression)
    # "June 20", "Day 5": words that are no product, then numbers. Compared as text.
    if (
        marked or len(first.text) > 4 or (first.text[:1].isupper() and first.text[1:].islower() and len(first.text) > 2)
    ) and all(t.kind in ("word", "number", "half") or is_sign(t, ".", "-", "'", '"', ":", "/", "#") for t in solid):
        if first.text.lower() in ("sqrt", "sin", "cos", "tan", "log", "ln", "infinity") or len(first.text) == 1:
            return None
        if first.text.lower() in ("rs", "usd"):
            return None
        return Words(" ".join(t.text.lower() for t in solid if t.kind != "mark" or t.text in ":/-"), marked)
    return None


def may_be_product(word: str) -> bool:
    """Whether a word may be variables side by side: two or three letters in lower case, no common word."""
    if len(word) == 1:
        return True
    return len(word) <= 3 and word.islower() and word not in SHORT_WORDS
