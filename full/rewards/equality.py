"""Whether two answers are equal: their normal forms decide what may be compared, math-verify reads the expressions.

Runs in the verifying workers only (full/rewards/pool.py): nothing here is bounded in time. An equality of two expressions is
checked after math-verify's parser: the parser must have found exactly the variables that were written, and the values must
agree exactly (rationals) or to 300 digits, for expressions with variables at several points. math-verify's own comparison
rounds decimals to 6 places (0.333333 is 1/3, 0.0000001 is 0.0000002) and small differences to zero (2^-98 is 2^-99); it is
asked only about what cannot be evaluated.
"""

import functools
from collections.abc import Sequence
from typing import Any

import sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy
from math_verify import verify

from full.rewards.forms import canonical, read
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
    Verbatim,
    Words,
)

# Values of variables: of both signs, small and large, no integers, and none a simple function of another.
_POINTS = tuple(
    tuple(sympy.Rational(n, 97) for n in row)
    for row in (
        (41, 163, 71, 229),
        (-53, 107, -199, 59),
        (311, -67, 101, -37),
        (20011, 8009, -12007, 5003),
        (-9001, -401, 211, 30011),
    )
)
_DIGITS = 300


# The worker asks this once before its first question, so that imports are no part of an answer's time.
EXAMPLE = ("x+1", r"1+\frac{2x}{2}")


def equal(gold: str, answer: str) -> bool:
    """Whether an answer is the gold answer, in any form that says the same."""
    if not answer.strip() or not gold.strip():
        return False
    if canonical(gold) == canonical(answer) != "":
        return True
    form = _read_gold(gold)
    return same(form, read(answer, like=form))


@functools.lru_cache(maxsize=512)
def _read_gold(gold: str) -> Form:
    return read(gold)


def same(gold: Form, answer: Form) -> bool:
    """Whether two forms say the same; not symmetric: the gold decides what kind of answer is asked for."""
    if isinstance(gold, Verbatim) or isinstance(answer, Verbatim):
        return isinstance(gold, Verbatim) and isinstance(answer, Verbatim) and gold.text.lower() == answer.text.lower()
    if isinstance(gold, Named) or isinstance(answer, Named):
        return _same_named(gold, answer)
    gold, answer = _single(gold), _single(answer)
    if isinstance(gold, Items) and isinstance(answer, Items) and not (_is_relations(gold) or _is_relations(answer)):
        return _same_items(gold, answer)
    if _is_set(gold) or _is_set(answer):
        return _same_sets(gold, answer)
    if isinstance(gold, Items) or isinstance(answer, Items):
        return False
    if isinstance(gold, Relation) or isinstance(answer, Relation):
        return isinstance(gold, Relation) and isinstance(answer, Relation) and _same_relations(gold, answer)
    if isinstance(gold, Words) or isinstance(answer, Words):
        return _same_words(gold, answer)
    if isinstance(gold, Based) or isinstance(answer, Based):
        return _same_based(gold, answer)
    if isinstance(gold, Matrix) or isinstance(answer, Matrix):
        return isinstance(gold, Matrix) and isinstance(answer, Matrix) and _same_matrices(gold, answer)
    if isinstance(gold, Clock) and isinstance(answer, Clock):
        # A gold time without a.m. or p.m. says nothing about the half of the day.
        return (gold.hours, gold.minutes) == (answer.hours, answer.minutes) and gold.half in ("", answer.half)
    return _same_ratios(gold, answer)


def _single(form: Form) -> Form:
    """{5} and a list of one are 5."""
    return form.items[0] if isinstance(form, Items) and len(form.items) == 1 and form.kind != "tuple" else form


# --- names, words, bases, ratios


def _same_named(gold: Form, answer: Form) -> bool:
    if isinstance(answer, Named) and not all(same(answer.value, claim) for claim in answer.claims):
        return False  # x = 2 + 6 = 9
    if isinstance(gold, Named) and isinstance(answer, Named):
        contradicts = gold.is_variable and answer.is_variable and gold.name != answer.name
        if not contradicts:
            return same(gold.value, answer.value)
        return _same_relations(_as_relation(gold), _as_relation(answer))  # y = 2x is x = y/2
    if isinstance(gold, Named):
        if isinstance(answer, Relation) and _variables(gold.value):
            return _same_relations(_as_relation(gold), answer)  # a line; 2x = 10 is no x = 5
        return same(gold.value, answer)
    assert isinstance(answer, Named)
    return _same_relations(gold, _as_relation(answer)) if isinstance(gold, Relation) else same(gold, answer.value)


def _as_relation(form: Named) -> Relation:
    sides = (form.symbol, form.value) if form.symbol is not None else ()
    return Relation(sides, ("=",) * (len(sides) // 2))


def _same_words(gold: Form, answer: Form) -> bool:
    if isinstance(gold, Words) and isinstance(answer, Words):
        if not gold.marked and not answer.marked and gold.expression and answer.expression:
            return _same_expressions(gold.expression, answer.expression)  # xy is yx, F is not f
        return gold.text == answer.text
    words, other = (gold, answer) if isinstance(gold, Words) else (answer, gold)
    assert isinstance(words, Words)
    return words.expression is not None and isinstance(other, Expression) and same(words.expression, other)


def _same_based(gold: Form, answer: Form) -> bool:
    if isinstance(gold, Based) and isinstance(answer, Based):
        return gold == answer
    based, other = (gold, answer) if isinstance(gold, Based) else (answer, gold)
    assert isinstance(based, Based)
    if based.base != "10" or not isinstance(other, Expression):
        return False
    return other.latex.replace(" ", "") == based.digits


def _same_matrices(gold: Matrix, answer: Matrix) -> bool:
    shapes = [[len(row) for row in form.rows] for form in (gold, answer)]
    pairs = zip(gold.rows, answer.rows, strict=False)
    return shapes[0] == shapes[1] and all(same(g, a) for row, other in pairs for g, a in zip(row, other, strict=True))


def _same_ratios(gold: Form, answer: Form) -> bool:
    gold = gold.ratio if isinstance(gold, Clock) and gold.ratio else gold
    answer = answer.ratio if isinstance(answer, Clock) and answer.ratio else answer
    if isinstance(gold, Ratio) and isinstance(answer, Ratio):
        if len(gold.terms) != len(answer.terms):
            return False
        (g0, *gs), (a0, *others) = gold.terms, answer.terms
        return all(_same_expressions(_product(g, a0), _product(a, g0)) for g, a in zip(gs, others, strict=True))
    if isinstance(gold, Ratio) or isinstance(answer, Ratio):
        ratio, other = (gold, answer) if isinstance(gold, Ratio) else (answer, gold)
        assert isinstance(ratio, Ratio)
        if len(ratio.terms) != 2 or not isinstance(other, Expression) or other.percent:
            return False
        return _same_expressions(ratio.terms[0], _product(ratio.terms[1], other))
    return isinstance(gold, Expression) and isinstance(answer, Expression) and _same_values(gold, answer)


def _product(a: Form, b: Form) -> Expression:
    assert isinstance(a, Expression) and isinstance(b, Expression)
    return Expression(f"({a.latex}) \\cdot ({b.latex})", a.symbols | b.symbols)


# --- several answers


def _same_items(gold: Items, answer: Items) -> bool:
    if "set" in (gold.kind, answer.kind):
        if "tuple" in (gold.kind, answer.kind):
            return False
        kept, others = list(gold.items), list(answer.items)
        return all(any(same(g, a) for a in others) for g in kept) and all(any(same(g, a) for g in kept) for a in others)
    if len(gold.items) != len(answer.items):
        return False
    golds, answers = _by_name(gold), _by_name(answer)
    if "tuple" in (gold.kind, answer.kind) or (golds is None) != (answers is None):
        # The order counts in a pair, and where one side says which is which: x=1, y=2 is no 2, 1.
        return all(same(g, a) for g, a in zip(golds or gold.items, answers or answer.items, strict=True))
    rest = list(answer.items)
    for g in gold.items:
        match = next((i for i, a in enumerate(rest) if same(g, a)), None)
        if match is None:
            return False
        rest.pop(match)
    return True


def _by_name(items: Items) -> list[Form] | None:
    """The items in the order of their names, if each has one of its own; None otherwise."""
    named = {item.name: item for item in items.items if isinstance(item, Named)}
    if len(named) < len(items.items):
        return None
    names = sorted(named) if all(len(name) == 1 for name in named) else list(named)
    return [named[name] for name in names]


# --- sets of numbers


def _is_relations(form: Form) -> bool:
    return isinstance(form, Items) and form.kind != "tuple" and any(_is_inequality(item) for item in form.items)


def _is_inequality(form: Form) -> bool:
    return isinstance(form, Relation) and "=" not in form.ops


def _is_set(form: Form) -> bool:
    return isinstance(form, Interval | Union | Reals) or _is_inequality(form) or _is_relations(form)


def _same_sets(gold: Form, answer: Form) -> bool:
    if isinstance(gold, Interval) and isinstance(answer, Interval):
        ends = (gold.left_open, gold.right_open) == (answer.left_open, answer.right_open)
        return ends and same(gold.left, answer.left) and same(gold.right, answer.right)
    if _is_inequality(gold) and _is_inequality(answer):
        assert isinstance(gold, Relation) and isinstance(answer, Relation)
        if _same_relations(gold, answer):
            return True
        if _variables(gold) != _variables(answer):
            return False
    sets = _as_set(gold, trusted=True), _as_set(answer, trusted=False)
    return sets[0] is not None and sets[1] is not None and _equal_sets(*sets)


def _as_set(form: Form, *, trusted: bool) -> Any:
    """A set of real numbers as sympy's, or None. An answer (not trusted) must be solved, as x^2 < 9 is not."""
    if isinstance(form, Reals):
        return sympy.S.Reals - sympy.FiniteSet(*map(_number, form.without)) if form.without else sympy.S.Reals
    if isinstance(form, Interval):
        return _interval(form.left, form.right, form.left_open, form.right_open)
    if isinstance(form, Items) and form.kind == "tuple":
        return _interval(*form.items, True, True) if len(form.items) == 2 else None
    if isinstance(form, Union):
        parts = [_as_set(part, trusted=trusted) for part in form.parts]
        return None if None in parts else sympy.Union(*parts)
    if isinstance(form, Relation):
        return _solution(form, trusted=trusted)
    if isinstance(form, Items) and _is_relations(form):
        parts = [_as_set(part, trusted=trusted) for part in form.items]
        if None in parts or len({v for item in form.items for v in _variables(item)}) > 1:
            return None
        union = sympy.Union(*parts)
        # "x > -3, x < 3" can only mean both.
        both = form.joint == "and" or (form.joint == "," and union == sympy.S.Reals)
        return sympy.Intersection(*parts) if both else union
    if isinstance(form, Items):
        numbers = [_number(item) for item in form.items]
        return None if None in numbers else sympy.FiniteSet(*numbers)
    number = _number(form)
    return None if number is None else sympy.FiniteSet(number)


def _number(form: Form) -> Any:
    """The value of a real number, or None."""
    if isinstance(form, Named):
        return _number(form.value)
    value = parse(form) if isinstance(form, Expression) and not form.percent else None
    if value is None or value.free_symbols:
        return None
    value = value.doit()
    return value if value.is_extended_real else None


def _interval(left: Form, right: Form, left_open: bool, right_open: bool) -> Any:
    a, b = _number(left), _number(right)
    if a is None or b is None or (a < b) != sympy.true:
        return None
    if (a == -sympy.oo and not left_open) or (b == sympy.oo and not right_open):
        return None
    return sympy.Interval(a, b, left_open, right_open)


def _variables(form: Form) -> frozenset[str]:
    if isinstance(form, Relation):
        return frozenset().union(*(_variables(side) for side in form.sides))
    if isinstance(form, Words):
        return _variables(form.expression) if form.expression else frozenset()
    return form.symbols if isinstance(form, Expression) else frozenset()


_OPERATORS = {"<": sympy.Lt, ">": sympy.Gt, "<=": sympy.Le, ">=": sympy.Ge, "!=": sympy.Ne}


def _solution(relation: Relation, *, trusted: bool) -> Any:
    """The numbers for which a chain of inequalities in one variable holds."""
    names = _variables(relation)
    sides = [parse(_expression(side)) for side in relation.sides]
    if len(names) != 1 or None in sides:
        return None
    x = sympy.Symbol("x", real=True)
    sides = [side.subs(dict.fromkeys(side.free_symbols, x)) for side in sides]
    solution = sympy.S.Reals
    for left, op, right in zip(sides, relation.ops, sides[1:], strict=False):
        inner, bound = (left, right) if left.has(x) else (right, left)
        if bound.has(x) or not (
            trusted or inner == x or (isinstance(inner, sympy.Abs) and sympy.degree(inner.args[0], x) == 1)
        ):
            return None
        inequality = _OPERATORS[op](left, right)
        if bound in (sympy.oo, -sympy.oo) and op in ("<", ">") and inequality == sympy.true:
            continue  # x < infinity
        if inequality in (sympy.true, sympy.false):
            return None
        if op == "!=":
            part = sympy.S.Reals - sympy.solveset(left - right, x, sympy.S.Reals)
        else:
            part = sympy.solve_univariate_inequality(inequality, x, relational=False)
        solution = solution.intersect(part)
    return solution


def _expression(form: Form) -> Expression | None:
    return form.expression if isinstance(form, Words) else form if isinstance(form, Expression) else None


def _equal_sets(a: Any, b: Any) -> bool:
    pieces = []
    for whole in (a, b):
        parts = list(whole.args) if isinstance(whole, sympy.Union) else [whole]
        if not all(
            isinstance(part, sympy.Interval | sympy.FiniteSet) or part in (sympy.S.EmptySet, sympy.S.Reals)
            for part in parts
        ):
            return bool(a == b)
        rows = []
        for part in parts:
            if isinstance(part, sympy.FiniteSet):
                rows += [(point, point, False, False) for point in part.args]
            elif part != sympy.S.EmptySet:
                rows.append((part.inf, part.sup, bool(part.left_open), bool(part.right_open)))
        pieces.append(sorted(rows, key=lambda row: (float(row[0]), float(row[1]))))
    if len(pieces[0]) != len(pieces[1]):
        return False
    return all(
        x[2:] == y[2:] and _is_zero_difference(x[0], y[0]) is True and _is_zero_difference(x[1], y[1]) is True
        for x, y in zip(*pieces, strict=True)
    )


# --- equations and inequalities that are the gold answer


def _same_relations(gold: Relation, answer: Relation) -> bool:
    """Equivalent by a constant factor: 2x = 2y is x - y = 0."""
    if not gold.ops or len(gold.ops) != len(answer.ops):
        return False
    if len(gold.ops) > 1:
        flip = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!="}
        for ops, sides in (
            (answer.ops, answer.sides),
            (tuple(flip[op] for op in answer.ops[::-1]), answer.sides[::-1]),
        ):
            if ops == gold.ops and all(same(g, a) for g, a in zip(gold.sides, sides, strict=True)):
                return True
        return False
    values = [parse(_expression(side)) for side in gold.sides + answer.sides]
    if None in values:
        return False
    (g_op,), (a_op,) = gold.ops, answer.ops
    factor = _constant_factor(values[0] - values[1], values[2] - values[3])
    if factor is None:
        return False
    if g_op in ("=", "!="):
        return g_op == a_op
    return a_op == g_op if factor > 0 else (a_op[0] != g_op[0] and a_op[1:] == g_op[1:])


def _constant_factor(a: Any, b: Any) -> float | None:
    """c with a = c b at all points, c not 0; None without one."""
    symbols = sorted(a.free_symbols | b.free_symbols, key=str)
    if not symbols or a.free_symbols != b.free_symbols:
        return None
    pairs = []
    for point in _points(symbols):
        pairs.append((a.subs(point), b.subs(point)))
    a0, b0 = pairs[0]
    if _is_zero_difference(a0, 0) is not False or _is_zero_difference(b0, 0) is not False:
        return None
    if not all(_is_zero_difference(a_i * b0, b_i * a0) is True for a_i, b_i in pairs[1:]):
        return None
    factor = complex((a0 / b0).evalf())
    return factor.real if factor.imag == 0 else None


# --- expressions


def _same_values(gold: Expression, answer: Expression) -> bool:
    """Equal as they are written, units and percent signs aside; or one is a percentage of the other, a fraction of 1."""
    if _same_expressions(gold, answer):
        return True
    if gold.percent == answer.percent or gold.symbols or answer.symbols:
        return False
    plain, percentage = (answer, gold) if gold.percent else (gold, answer)
    values = parse(plain), parse(percentage)
    if None in values or not bool(sympy.Abs(values[0]) <= 1):
        return False
    return _is_zero_difference(values[0] * 100, values[1]) is True


def _same_expressions(gold: Any, answer: Any) -> bool:
    if gold.latex == answer.latex:
        return True
    a, b = parse(gold), parse(answer)
    if a is None or b is None:
        return False
    if a == b:
        return True
    verdict = _agree(a, b)
    # What cannot be evaluated (a function without a definition) is math-verify's to compare.
    return bool(verify([a], [b], timeout_seconds=None)) if verdict is None else verdict


def parse(expression: Expression | None) -> Any:
    """The expression as sympy's, or None if math-verify's parser does not read what was written."""
    return _parse(expression.latex, expression.symbols) if expression is not None else None


@functools.lru_cache(maxsize=2048)
def _parse(latex: str, symbols: frozenset[str]) -> Any:
    try:
        value = latex2sympy(
            latex, normalization_config=None, conversion_config=ConversionConfig(lowercase_symbols=False)
        )
    except Exception:
        return None
    if not isinstance(value, sympy.Expr):
        return None
    names = {symbol.name for symbol in value.atoms(sympy.Symbol)} - {"i"}
    functions = {type(call).__name__ for call in value.atoms(sympy.core.function.AppliedUndef)}
    if names != set(symbols) - functions:
        return None
    return value.xreplace({symbol: sympy.I for symbol in value.atoms(sympy.Symbol) if symbol.name == "i"})


def _agree(a: Any, b: Any) -> bool | None:
    """Whether two expressions have the same value, at several points if they have variables; None if there is none."""
    symbols = sorted(a.free_symbols | b.free_symbols, key=str)
    if not symbols:
        return _is_zero_difference(a, b)
    agreed = 0
    for point in _points(symbols):
        verdict = _is_zero_difference(a.subs(point), b.subs(point))
        if verdict is False:
            return False
        agreed += verdict is True
    return True if agreed >= 3 else None


def _points(symbols: Sequence[Any]) -> list[dict[Any, Any]]:
    return [{s: row[i % 4] + i // 4 for i, s in enumerate(symbols)} for row in _POINTS]


def _is_zero_difference(a: Any, b: Any) -> bool | None:
    """Whether a = b: exact where both are rational, to 300 digits otherwise; None where one has no value."""
    a, b = sympy.sympify(a), sympy.sympify(b)
    a, b = a.doit(), b.doit()
    if a == b:
        return None if a is sympy.nan or a is sympy.zoo else True
    if a.is_Rational and b.is_Rational:
        return False
    if (not a.is_finite and a.is_finite is not None) or (not b.is_finite and b.is_finite is not None):
        return None if a is sympy.nan or b is sympy.nan else False
    value = (a - b).evalf(15, maxn=_DIGITS)
    if value is sympy.nan or value is sympy.zoo or not value.is_number or value.atoms(sympy.core.function.AppliedUndef):
        return None
    parts = value.as_real_imag()
    if not all(part.is_Number for part in parts):
        return None
    # sympy gives a Float of one bit for what it cannot tell from zero within so many digits.
    return all(part == 0 or (part.is_Float and part._prec <= 1) for part in parts)
