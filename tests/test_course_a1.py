"""Assignment 1: right answers pass in whatever style, near misses fail for the right reason, messages help."""

import contextlib
import math
from dataclasses import replace

import pytest
import torch

import apo_edu
from toys.course import Student, check, load
from toys.course.judging import judge

A1 = load("a1")
ADA = Student("ada", "test")


def looped(log_q, log_p, alpha):
    """Python loops over everything, plain floats' mathematics through torch scalars."""
    if log_q.dim() > 1:
        rows = zip(log_q.flatten(0, -2), log_p.flatten(0, -2), strict=True)
        return torch.stack([looped(a, b, alpha) for a, b in rows]).reshape(log_q.shape[:-1])
    total = torch.zeros((), dtype=log_q.dtype)
    for lq, lp in zip(log_q, log_p, strict=True):
        if alpha >= 0.5:
            d, base, a = lp - lq, lq, 1 - alpha
        else:
            d, base, a = lq - lp, lp, alpha
        bent = d if a == 0 else torch.expm1(a * d) / a
        total = total + torch.exp(base) * (torch.expm1(d) - bent) / (1 - a)
    return total


def numpy_like(log_q, log_p, alpha):
    """Arrays, masks and a generator f(w), E_p f(q/p), with its Taylor series where it would cancel."""
    log_w = log_q - log_p
    w = torch.exp(log_w)
    if alpha == 0:
        f = w - 1 - log_w
    elif alpha == 1:
        f = w * log_w - w + 1
    elif abs(alpha) < 1e-9:
        f = w - 1 - log_w
    elif abs(alpha - 1) < 1e-9:
        f = w * log_w - w + 1
    else:
        f = (w**alpha - 1 - alpha * (w - 1)) / (alpha * (alpha - 1))
    series = log_w**2 / 2 + (1 + alpha) * log_w**3 / 6
    return torch.sum(torch.exp(log_p) * torch.where(torch.abs(log_w) < 1e-4, series, f), axis=-1)


@pytest.mark.parametrize("answer", [looped, numpy_like])
def test_other_right_styles_pass(answer):
    for seed in range(5):
        verdicts = judge(A1["alpha_divergence"], answer, ADA, fresh=str(seed))
        assert all(verdict.passed for verdict in verdicts), [v.says for v in verdicts if not v.passed]


def test_the_right_answer_for_another_alpha_fails():
    for other in (lambda a: a + 1e-3, lambda a: 0.999 * a, lambda a: 1 - a, lambda a: a * a):
        verdicts = judge(
            A1["alpha_divergence"],
            lambda q, p, a, other=other: apo_edu.alpha_divergence(q, p, other(a)),
            ADA,
            guarded=False,
        )
        assert not verdicts[0].passed


def test_an_unnamed_mistake_is_shown_with_its_case():
    verdicts = judge(A1["alpha_divergence"], lambda q, p, a: apo_edu.alpha_divergence(q, p, a) ** 2, ADA, guarded=False)
    assert "expected" in verdicts[0].says and "log_p of shape (5,), alpha = 0.2" in verdicts[0].says


def test_factors_are_named():
    verdicts = judge(
        A1["alpha_divergence"], lambda q, p, a: apo_edu.alpha_divergence(q, p, a) / math.log(2), ADA, guarded=False
    )
    assert "base 2" in verdicts[0].says


def test_an_exception_names_the_students_line():
    def broken(log_q, log_p, alpha):
        return log_q.exp().summ(-1)

    verdicts = judge(A1["alpha_divergence"], broken, ADA)
    assert "AttributeError" in verdicts[0].says and "log_q.exp().summ(-1)" in verdicts[0].says


def test_an_endless_loop_ends():
    def loop(log_q, log_p, alpha):
        while True:
            with contextlib.suppress(Exception):
                pass

    (verdict,) = judge(
        replace(A1["alpha_divergence"], checks=A1["alpha_divergence"].checks[:1], seconds=0.1), loop, ADA
    )
    assert verdict.mistake == "too slow" and "never ends" in verdict.says


def test_soft_while_working_and_raising_under_grading(monkeypatch, capsys):
    exercise = A1["alpha_divergence"]
    assert check(exercise, lambda q, p, a: None, student=ADA) is None
    assert "not yet: values between and beyond the ends" in capsys.readouterr().out
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    with pytest.raises(AssertionError, match="0 of 8 points"):
        check(exercise, lambda q, p, a: None, student=ADA)
    assert check(exercise, exercise.solution, student=ADA) == 8
    some = next(mistake for mistake in exercise.mistakes if mistake.name == "no gradient")
    assert 0 < check(exercise, lambda q, p, a: exercise.solution(q, p, a).detach(), student=ADA) < 8
    assert some.says in capsys.readouterr().out
