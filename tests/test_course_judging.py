"""What a check says: numbers as they are, float32, changed input, and the mistake that fits all that is known."""

import numpy as np
import pytest
import torch

from toys.course.judging import exactly, judge
from toys.course.model import Check, Exercise, Mistake, NotYet, Student
from toys.course.probes import is_the_limit

ADA = Student("ada", "test")


def double(x: torch.Tensor, alpha: float) -> torch.Tensor:
    """Twice x at alpha = 1."""
    return (1 + alpha) * x


def cases(*orders):
    return lambda generator, numbers: [(torch.rand(3, generator=generator, dtype=torch.float64), a) for a in orders]


def made(*mistakes, checks=(), **rest):
    checks = checks or (
        Check(name="values", title="values", points=1, cases=cases(0.5, 2.0), rtol=1e-9, hint="Look again."),
        Check(name="end", title="at the end", points=1, cases=cases(0.0), rtol=1e-9),
    )
    return Exercise(
        name="double",
        title="",
        text="",
        minutes=1,
        difficulty=1,
        solution=double,
        checks=checks,
        mistakes=mistakes,
        **rest,
    )


@pytest.mark.parametrize(
    ("x", "shown"),
    [
        (1 - 1e-12, "1 - 1e-12"), (1 - 1e-7, "1 - 1e-7"), (1 + 2e-9, "1 + 2e-9"), (1e-12, "1e-12"), (0.98, "0.98"), (0.0, "0"),
        (0.1 + 0.2, "0.3"), (-1e-12, "-1e-12"), (0.123456789, "0.123457"), (float("inf"), "inf"), (0.5 + 1e-9, "0.5 + 1e-9"),
    ],
)  # fmt: skip
def test_a_number_is_not_shown_as_a_round_one(x, shown):
    assert exactly(x) == shown


def test_the_case_is_shown_exactly():
    check = Check(name="near", title="", points=1, cases=cases(1 - 1e-12), rtol=1e-9)
    (verdict,) = judge(made(checks=(check,)), lambda x, alpha: x**2 + alpha, ADA)
    assert "alpha = 1 - 1e-12" in verdict.says


@pytest.mark.parametrize("size", [1, 3, 30])
def test_numbers_that_differ_are_not_shown_as_equal(size):
    check = Check(
        name="all",
        title="",
        points=1,
        cases=lambda generator, numbers: [(torch.rand(size, generator=generator, dtype=torch.float64), 1.0)],
        rtol=1e-11,
    )

    def nearly(x, alpha):
        changed = double(x, alpha)
        changed[-1] += 3e-10
        return changed

    (verdict,) = judge(made(checks=(check,)), nearly, ADA)
    mine, right = verdict.says.split("gives ")[1].split(", expected ")
    assert mine != right.rstrip(". ") and len(mine) > 8


@pytest.mark.parametrize(
    "answer",
    [
        lambda x, alpha: double(x.float(), alpha),
        lambda x, alpha: torch.tensor([(1 + alpha) * number for number in x.tolist()]),
        lambda x, alpha: double(x, alpha).numpy().astype(np.float32),
        lambda x, alpha: [float(y) for y in double(x.float(), alpha)],
    ],
)
def test_float32_is_named(answer):
    verdicts = judge(made(Mistake("never", "never", lambda x, alpha: x)), answer, ADA)
    values, end = verdicts
    assert values.mistake == "float32" and "dtype" in values.says
    assert end.passed or end.mistake == "float32"


def test_float32_is_no_lost_digits():
    """Where rounding is what a check looks at, float32 is said, and not the mistake that loses digits in float64."""
    noisy = Check(name="digits", title="", points=1, cases=cases(1e-3), rtol=1e-12, noisy=True)
    values = Check(name="values", title="", points=1, cases=cases(0.5), rtol=1e-9)
    lost = Mistake("lost", "digits lost", lambda x, alpha: double(x, alpha) * (1 + (alpha < 0.1) * 1e-8))
    verdicts = judge(made(lost, checks=(noisy, values)), lambda x, alpha: double(x.float(), alpha).double() * 1.0, ADA)
    assert {verdict.mistake for verdict in verdicts} == {"float32"}
    assert judge(made(lost, checks=(noisy, values)), lost.answer, ADA)[0].mistake == "lost"


def test_a_mistake_in_float32_is_still_named():
    thrice = Mistake("thrice", "three times", lambda x, alpha: (2 + alpha) * x)
    verdicts = judge(made(thrice), lambda x, alpha: (2 + alpha) * x.float(), ADA)
    assert {verdict.mistake for verdict in verdicts} == {"thrice"}


def test_tensors_of_one_number_are_numbers():
    check = Check(name="pair", title="", points=1, cases=lambda generator, numbers: [()], rtol=1e-5)
    exercise = made(checks=(check,), value=True, referee=lambda: (0.25, 0.7))
    for given in (
        (torch.tensor(0.25), torch.tensor(0.7)), [np.float32(0.25), np.array(0.7)], (0.25, torch.tensor(0.7).double()),
        torch.tensor([0.25, 0.7], requires_grad=True), np.array([0.25, 0.7]),
    ):  # fmt: skip
        assert judge(exercise, given, ADA)[0].passed, given
    assert not judge(exercise, (torch.tensor(0.25), torch.tensor(0.8)), ADA)[0].passed
    verdict = judge(exercise, (torch.tensor([0.25]), torch.tensor([0.7, 1.0])), ADA)[0]
    assert verdict.mistake == "wrong type" and "expected 2 numbers" in verdict.says and "0.7" not in verdict.says


def test_changing_the_input_is_named():
    def in_place(x, alpha):
        x *= 1 + alpha
        return x

    for verdict in judge(made(), in_place, ADA):
        # At alpha = 0 nothing changes.
        assert verdict.passed == (verdict.check.name == "end")
        assert verdict.passed or (verdict.mistake == "changes its input" and "`x` in place" in verdict.says)


def test_a_mistake_that_would_fail_elsewhere_comes_second():
    everywhere = Mistake("x for all", "x whatever alpha is", lambda x, alpha: x / 2)
    here = Mistake("half at the end", "half at the end", lambda x, alpha: x / 2 if alpha == 0 else double(x, alpha))

    def answer(x, alpha):
        return x / 2 if alpha == 0 else (3 + alpha) * x

    def right_elsewhere(x, alpha):
        return x / 2 if alpha == 0 else double(x, alpha) + 1e-3

    exercise = made(everywhere, here)
    assert judge(exercise, answer, ADA)[1].mistake == "x for all"  # nothing speaks against it
    assert judge(exercise, right_elsewhere, ADA)[1].mistake == "x for all"
    passing = Check(name="more", title="", points=1, cases=cases(1.0), rtol=1e-9)
    exercise = made(everywhere, here, checks=(*exercise.checks, passing))

    def right_at_1(x, alpha):
        return double(x, alpha) if alpha == 1 else x / 2 if alpha == 0 else 7 * x

    assert judge(exercise, right_at_1, ADA)[1].mistake == "half at the end"


def test_what_a_noisy_check_says_must_fit_the_mistake():
    def probe(answer, x, alpha):
        if answer(x, alpha)[0] == x[0]:
            raise NotYet("gives its input")
        return answer(x, alpha)

    checks = (
        Check(name="values", title="", points=1, cases=cases(0.5), rtol=1e-9),
        Check(name="noise", title="", points=1, cases=cases(1.0), rtol=1e-9, noisy=True, probe=probe),
    )
    exercise = made(
        Mistake("noise", "noise", lambda x, alpha: double(x, alpha) + (alpha == 1) * torch.rand(3)),
        Mistake("its input", "its input", lambda x, alpha: x if alpha == 1 else double(x, alpha)),
        checks=checks,
    )
    for answer, name in (
        (lambda x, alpha: x if alpha == 1 else 1.5 * x, "its input"),
        (lambda x, alpha: 9 * x if alpha == 1 else 1.5 * x, "noise"),
    ):
        first, second = judge(exercise, answer, ADA)
        assert first.passed and second.mistake == name


def test_the_limit_is_told_from_the_value():
    limit, exact = torch.tensor([1.0, 2.0]).double(), torch.tensor([1.01, 2.03]).double()
    assert is_the_limit(limit, limit, exact) and is_the_limit([1.0, 2.0], limit, exact)
    assert not is_the_limit(exact, limit, exact) and not is_the_limit(1.0, limit, exact)
    assert not is_the_limit("?", limit, exact)
    assert not is_the_limit(limit, limit, limit + 1e-12)  # cannot be told apart
