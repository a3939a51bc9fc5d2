"""The structure of an answer: lists, pairs, sets, intervals, relations, bases, times, and single values in them."""

import re

from full.rewards.forms.characters import THOUSANDS_COMMA, clean
from full.rewards.forms.records import (
    Based,
    Clock,
    Expression,
    Form,
    Interval,
    Items,
    Matrix,
    Named,
    Ratio,
    Reals,
    Relation,
    Union,
    Unreadable,
    Verbatim,
    Words,
)
from full.rewards.forms.tokens import (
    Token,
    Tokens,
    closing,
    depths,
    is_sign,
    join,
    merge_repeating,
    merge_thousands,
    spell,
    split_commas,
    strip,
    strip_spaces,
    tokenize,
)
from full.rewards.forms.units import mark_letter_units, read_value
from full.rewards.forms.words import ALL_REALS, GREEK, NO_SOLUTION, NUMBER_WORDS
from full.rewards.forms.writing import write_expression


def read(text: str, *, like: Form | None = None) -> Form:
    """The form of an answer.

    Args:
        like: the gold answer's form; None for the gold itself. It says whether a plain comma may separate thousands
            (3,5,7 is no 357) and whether a letter after a number may be a unit (5m is 5, but no 5 is 5m).
    """
    text = text[:4000]
    cleaned = clean(text)
    tokens = merge_repeating(tokenize(cleaned))
    plain_comma = not (isinstance(like, Items) or (isinstance(like, Named) and isinstance(like.value, Items)))
    tokens = merge_thousands(tokens, plain_comma)
    tokens = strip(mark_letter_units(tokens, numeric=like is not None and not _has_variables(like)))
    tokens = _without_lead(tokens)
    try:
        return _read_list(tokens)
    except Unreadable:
        return Verbatim(spell(tokens))
    except (ValueError, IndexError, RecursionError, ZeroDivisionError):
        return Verbatim(spell(tokens))


def _has_variables(form: Form) -> bool:
    if isinstance(form, Expression):
        return bool(form.symbols)
    if isinstance(form, Named):
        return _has_variables(form.value)
    if isinstance(form, Words):
        return form.expression is not None and not form.marked
    parts = [getattr(form, name) for name in getattr(form, "__dataclass_fields__", ())]
    flat = [item for part in parts for item in (part if isinstance(part, tuple) else (part,))]
    return any(_has_variables(item) for item in flat if isinstance(item, Form))


def canonical(text: str) -> str:
    """The text without look, spaces and stops: equal texts are equal answers."""
    return spell(strip(tokenize(clean(text[:4000]))))


_LEAD = re.compile(r"(?:the)?(?:final|correct)?(?:answer|result|solution)(?:is|=|:)*:?")


def _without_lead(tokens: Tokens) -> Tokens:
    """Without "The answer is" or "Answer:" before it."""
    for end in range(min(len(tokens), 12), 0, -1):
        head = tokens[:end]
        worded = any(t.kind == "word" for t in head) and not any(t.kind == "number" for t in head)
        if worded and end < len(tokens) and _LEAD.fullmatch(join(head).lower()):
            return strip(tokens[end:])
    return tokens


def _read_list(tokens: Tokens) -> Form:
    """Answers separated by commas, semicolons, and, or; or a single one."""
    tokens = strip(tokens)
    if not tokens:
        raise Unreadable
    phrase = _phrase(tokens)
    if phrase in ALL_REALS:
        return Reals()
    if phrase in NO_SOLUTION:
        return Items("set", ())
    parts, joints = _split_list(tokens)
    if len(parts) == 1:
        return _read_item(parts[0])
    items: list[Form] = []
    for part in parts:
        form = _read_item(part)
        items += form.items if isinstance(form, Items) and form.kind == "list" else [form]
    return Items("list", tuple(items), joints.pop() if len(joints) == 1 else ",")


def _split_list(tokens: Tokens) -> tuple[list[Tokens], set[str]]:
    parts: list[Tokens] = [[]]
    ends: list[str] = []  # what ends each part
    for _, depth, token in depths(tokens):
        word = token.text.lower() if token.kind == "word" else token.text
        separates = depth == 0 and (
            (token.kind == "mark" and token.text in (",", ";", THOUSANDS_COMMA))
            or (token.kind == "word" and word in ("and", "or"))
            or (token.kind == "command" and token.text in ("\\land", "\\lor"))
        )
        if separates:
            ends.append({"and": "and", "\\land": "and", "or": "or", "\\lor": "or"}.get(word, ","))
            parts.append([])
        else:
            parts[-1].append(token)
    stripped = [strip(part) for part in parts]
    for place, part in enumerate(stripped):
        if not part and not (place and place < len(ends) and ends[place - 1] == "," and ends[place] != ","):
            raise Unreadable  # ",5" or "1,,2"; only ", and" leaves an empty part
    joints = set(ends) - ({","} if set(ends) - {","} else set())
    return [part for part in stripped if part], joints


def _phrase(tokens: Tokens) -> str:
    """The words of a phrase without numbers and signs, in lower case; "" if it is not one."""
    words = []
    for token in tokens:
        if token.kind == "word":
            words.append(token.text.lower())
        elif token.kind != "space" and not (token.kind == "mark" and token.text in ".,;:!?\"'"):
            return ""
    return " ".join(words)


_RELATIONS = {
    "=": "=",
    "<": "<",
    ">": ">",
    "\\lt": "<",
    "\\gt": ">",
    "\\le": "<=",
    "\\ge": ">=",
    "\\ne": "!=",
    "\\approx": "~",
    "\\in": "in",
}


def _read_item(tokens: Tokens) -> Form:
    """One answer: no separators outside of brackets."""
    tokens = strip(tokens)
    if not tokens:
        raise Unreadable
    relation = _read_relation(tokens)
    if relation is not None:
        return relation
    for reader in (_read_brackets, _read_union, _read_sign, _read_matrix, _read_based, _read_clock, _read_ratio):
        form = reader(tokens)
        if form is not None:
            return form
    return read_value(tokens)


def _read_relation(tokens: Tokens) -> Form | None:
    sides: list[Tokens] = [[]]
    ops: list[str] = []
    operator_depth = 0
    for index, depth, token in depths(tokens):
        follows = tokens[index + 1] if index + 1 < len(tokens) else None
        op = (
            _RELATIONS.get(token.text)
            if (token.kind in ("mark", "command") and not token.marked) or token.text == "="
            else None
        )
        if token.text == "!" and follows is not None and follows.text == "=":
            op, operator_depth = "!=", index + 1
        elif op in ("<", ">") and follows is not None and follows.text == "=":
            op, operator_depth = op + "=", index + 1
        elif token.text == "=" and operator_depth and index == operator_depth:
            continue
        if op and depth == 0:
            sides.append([])
            ops.append(op)
        else:
            sides[-1].append(token)
    if not ops:
        return None
    sides = [strip(side) for side in sides]
    if ops == ["~"]:
        # "\approx 5" and "x \approx 5" give 5; "\pi \approx 3.14" gives the exact side.
        named = not sides[0] or _name(sides[0]) is not None
        return _read_item(sides[1] if named else sides[0])
    if ops == ["="] and not sides[0]:
        return _read_item(sides[1])
    if "~" in ops:
        at = ops.index("~")
        if set(ops[:at]) != {"="} or len(ops) > at + 1:
            raise Unreadable
        sides, ops = sides[: at + 1], ops[:at]
    if any(not side for side in sides):
        raise Unreadable
    if ops == ["in"]:
        if _name(sides[0]) is None:
            raise Unreadable
        return _read_item(sides[1])
    if "in" in ops:
        raise Unreadable
    if set(ops) == {"="}:
        name = _name(sides[0])
        if name is None and len(sides) == 2:
            name = _name(sides[1])
            sides = sides[::-1] if name is not None else sides
        if name is not None:
            claims = tuple(_read_item(side) for side in sides[1:-1])
            try:
                latex, symbols = write_expression(sides[0])
                symbol = Expression(latex, frozenset(symbols))
            except Unreadable:
                symbol = None
            return Named(name[0], _read_item(sides[-1]), name[1], claims, symbol)
    return Relation(tuple(read_value(side) for side in sides), tuple(ops))


def _name(tokens: Tokens) -> tuple[str, bool] | None:
    """(the name, whether it is a variable) if the tokens are a lone name: x, a_1, f(x), (x,y), AB, \\text{Area}."""
    text = join(tokens)
    kinds = {token.kind for token in tokens}
    if "half" in kinds:
        return None
    solid = [t for t in tokens if t.kind != "space"]
    if all(t.kind == "word" for t in solid) and (any(t.marked for t in solid) or any(len(t.text) > 4 for t in solid)):
        single = len(solid) == 1 and len(solid[0].text) == 1
        return text, single
    if not any(t.marked and len(t.text) > 1 for t in solid):
        letter = r"(?:[a-zA-Z]|\\(?:" + "|".join(sorted(GREEK)) + r")(?![a-zA-Z]))"
        subscript = r"(?:_(?:\{[a-zA-Z0-9]+\}|[a-zA-Z0-9]+))?'*"
        if re.fullmatch(letter + subscript, text):
            return text, True
        if re.fullmatch(rf"[a-zA-Z]{subscript}(?:\^\{{-1\}})?\((?:[a-zA-Z0-9]|\d+)(?:,[a-zA-Z0-9])*\)", text):
            return text, True
        if re.fullmatch(rf"\({letter}{subscript}(?:,{letter}{subscript})+\)", text):
            return text, True
    # Points: a segment, an angle, an area.
    if re.fullmatch(r"\|?(?:m?\\angle|\\overline\{?|\\triangle)?\[?[A-Z]{1,4}\]?\}?\|?", text) and len(text) > 1:
        return text, True
    return None


def _read_brackets(tokens: Tokens) -> Form | None:
    opener, closer = tokens[0], tokens[-1]
    if not (is_sign(opener, "(", "[", "\\{", "\\langle") and is_sign(closer, ")", "]", "\\}", "\\rangle")):
        return None
    if closing(tokens, 0) != len(tokens) - 1:
        return None
    inner = strip_spaces(tokens[1:-1])
    if opener.text == "\\{":
        return _read_set(inner) if closer.text == "\\}" else None
    if closer.text == "\\}" or (opener.text == "\\langle") != (closer.text == "\\rangle"):
        return None
    if not inner:
        return None
    parts = split_commas(inner)
    if len(parts) == 1:
        # (5) is 5, and (x = 5) is x = 5; [2.5] may be the integer part.
        return _read_item(inner) if opener.text == "(" and closer.text == ")" else None
    items = tuple(_read_item(part) for part in parts)
    if (opener.text == "(" and closer.text == ")") or opener.text == "\\langle":
        return Items("tuple", items)
    if len(items) == 2:
        return Interval(items[0], items[1], opener.text == "(", closer.text == ")")
    return Items("list", items) if opener.text == "[" and closer.text == "]" else None


def _read_set(inner: Tokens) -> Form:
    if not inner:
        return Items("set", ())
    for index, depth, token in depths(inner):
        if depth == 0 and is_sign(token, ":", "|"):
            # {x | -3 < x < 3}: the condition is the set. {x in R : ...} too.
            head, condition = inner[:index], inner[index + 1 :]
            if _name(strip(head)) is None and not join(head).endswith("\\in\\reals"):
                raise Unreadable
            form = _read_list(condition)
            if isinstance(form, Relation) or (
                isinstance(form, Items) and all(isinstance(item, Relation) for item in form.items)
            ):
                return form
            raise Unreadable
    form = _read_list(inner)
    if isinstance(form, Items) and form.kind == "list":
        return Items("set", form.items)
    return Items("set", (form,))


def _read_union(tokens: Tokens) -> Form | None:
    if len(tokens) == 1 and is_sign(tokens[0], "\\reals"):
        return Reals()
    if len(tokens) == 1 and is_sign(tokens[0], "\\emptyset"):
        return Items("set", ())
    at = [index for index, depth, token in depths(tokens) if depth == 0 and is_sign(token, "\\cup", "\\setminus")]
    if not at:
        minus = [i for i, depth, token in depths(tokens) if depth == 0 and is_sign(token, "-")]
        if len(minus) == 1 and len(tokens) > 1 and is_sign(strip(tokens[: minus[0]] or tokens)[0], "\\reals"):
            at = minus
    if not at:
        return None
    pieces = [tokens[start:end] for start, end in zip([0, *(i + 1 for i in at)], [*at, len(tokens)], strict=True)]
    forms = tuple(_read_item(piece) for piece in pieces)
    if is_sign(tokens[at[0]], "\\cup"):
        if any(not is_sign(tokens[i], "\\cup") for i in at):
            raise Unreadable
        return Union(forms)
    if len(forms) == 2 and isinstance(forms[0], Reals) and isinstance(forms[1], Items) and forms[1].kind == "set":
        return Reals(forms[1].items)
    raise Unreadable


def _read_sign(tokens: Tokens) -> Form | None:
    r"""2 \pm \sqrt{3} is the list of both."""
    at = [index for index, token in enumerate(tokens) if is_sign(token, "\\pm", "\\mp")]
    if not at:
        return None

    def with_signs(upper: bool) -> Tokens:
        sign = {True: ("+", "-"), False: ("-", "+")}[upper]
        return [Token("mark", sign[token.text == "\\mp"]) if i in at else token for i, token in enumerate(tokens)]

    return Items("list", (read_value(with_signs(True)), read_value(with_signs(False))))


def _read_matrix(tokens: Tokens) -> Form | None:
    if not is_sign(tokens[0], "\\begin"):
        return None
    kind = re.match(r"\\begin\{([pbvBV]?matrix|array)\}", join(tokens[:6]))
    end = closing(tokens, 0)
    if kind is None or kind[1] in ("vmatrix", "Vmatrix") or end < 0:
        raise Unreadable
    name_end = closing(tokens, 1)
    tail = strip(tokens[end + 1 :])
    if join(tail) != kind[1]:
        raise Unreadable
    body = tokens[name_end + 1 : end]
    if kind[1] == "array" and strip_spaces(body) and is_sign(strip_spaces(body)[0], "{"):
        body = strip_spaces(body)
        body = body[closing(body, 0) + 1 :]
    rows: list[list[Tokens]] = [[[]]]
    for _, depth, token in depths(body):
        if depth == 0 and is_sign(token, "\\\\"):
            rows.append([[]])
        elif depth == 0 and is_sign(token, "&"):
            rows[-1].append([])
        else:
            rows[-1][-1].append(token)
    if len(rows) > 1 and not any(strip(entry) for entry in rows[-1]):
        rows.pop()
    return Matrix(tuple(tuple(_read_item(entry) for entry in row) for row in rows))


def _read_based(tokens: Tokens) -> Form | None:
    """1010_2, 1010_{two}, (1010)_2, "1010 base 2"."""
    text = spell(tokens)
    if "_" not in text and "base" not in text:
        return None
    number, radix = r"(-?[0-9A-Fa-f.\[\]]+)", r"(\d{1,2}|[a-z]{3,8})"
    match = re.fullmatch(rf"\(?\{{?{number}\}}?\)?_\{{?\(?(?:base ?)?{radix}\)?\}}?", text) or re.fullmatch(
        rf"\(?{number}\)?,? ?\(?(?:in )?base[ -]?{radix}\)?", text
    )
    if match is None or (not re.search(r"\d", match[1]) and match[1] != match[1].upper()):
        return None
    words = {word: str(value) for value, word in enumerate(NUMBER_WORDS)}
    base = match[2] if match[2].isdigit() else words.get(match[2])
    if base is None or (not re.search(r"\d", match[1]) and int(base) <= 10):
        return None
    return Based(_trim(match[1].upper()), str(int(base)))


def _trim(digits: str) -> str:
    sign, digits = ("-", digits[1:]) if digits.startswith("-") else ("", digits)
    return sign + (digits.lstrip("0") or "0")


def _read_clock(tokens: Tokens) -> Form | None:
    solid = [t for t in tokens if t.kind != "space"]
    half = ""
    if solid and solid[-1].kind == "half":
        half, solid = solid[-1].text[0].lower(), solid[:-1]
    elif len(solid) > 1 and solid[-1].kind == "word" and solid[-1].text.lower() in ("am", "pm"):
        written_as_time = solid[-1].marked or any(is_sign(t, ":") for t in solid)
        half, solid = (solid[-1].text[0].lower(), solid[:-1]) if written_as_time else ("", solid)
    text = "".join(t.text for t in solid)
    match = re.fullmatch(r"(\d{1,2}):([0-5]\d(?::[0-5]\d)?)", text)
    if match and int(match[1]) <= 24:
        ratio = None if half or ":" in match[2] else _read_ratio(tokens)
        return Clock(int(match[1]), match[2], half, ratio if isinstance(ratio, Ratio) else None)
    if half and re.fullmatch(r"\d{1,2}", text):
        return Clock(int(text), "00", half)
    if half:
        raise Unreadable
    return None


def _read_ratio(tokens: Tokens) -> Form | None:
    if not any(depth == 0 and is_sign(token, ":", "\\colon") for _, depth, token in depths(tokens)):
        return None
    terms: list[Tokens] = [[]]
    for _, depth, token in depths(tokens):
        if depth == 0 and is_sign(token, ":", "\\colon"):
            terms.append([])
        else:
            terms[-1].append(token)
    forms = tuple(read_value(strip(term)) for term in terms)
    if not all(isinstance(form, Expression) and not form.percent for form in forms):
        raise Unreadable
    return Ratio(forms)
