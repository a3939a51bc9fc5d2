"""Assignment 1: right answers pass in whatever style, near misses fail for the right reason, messages help."""

import contextlib
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import apo_edu
from tests.course_samples import FOLDER
from toys.course import Student, check, handout, load
from toys.course.a1 import _candidates, log_probs, show_digits
from toys.course.judging import judge
from toys.course.notebook import student_version

A1 = load("a1")
ADA = Student("ada", "test")
CLASS = [Student(f"s{i}", "test") for i in range(8)]


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


def box_cox_by_numpy(log_w, alpha):
    values = log_w.numpy()
    return values if alpha == 0 else np.expm1(alpha * values) / alpha


def box_cox_looped(log_w, alpha):
    flat = [x if alpha == 0 else math.expm1(alpha * x) / alpha for x in log_w.flatten().tolist()]
    return torch.tensor(flat, dtype=log_w.dtype).reshape(log_w.shape)


def grad_by_jacobian(log_q, log_p, alpha):
    """The softmax's Jacobian written out, diag(p) - p p^T."""
    p, r = torch.exp(log_p), log_q - log_p
    z = r if alpha == 0 else torch.expm1(alpha * r) / alpha
    jacobian = torch.diag_embed(p) - p[..., :, None] * p[..., None, :]
    return -(jacobian @ z[..., None])[..., 0]


def grad_looped(log_q, log_p, alpha):
    if log_q.dim() > 1:
        rows = zip(log_q.flatten(0, -2), log_p.flatten(0, -2), strict=True)
        return torch.stack([grad_looped(a, b, alpha) for a, b in rows]).reshape(log_q.shape)
    q, p = log_q.tolist(), log_p.tolist()
    z = [(a - b) if alpha == 0 else math.expm1(alpha * (a - b)) / alpha for a, b in zip(q, p, strict=True)]
    mean = sum(math.exp(b) * w for b, w in zip(p, z, strict=True))
    return torch.tensor([-math.exp(b) * (w - mean) for b, w in zip(p, z, strict=True)], dtype=log_q.dtype)


def gaussian_vectorised(x, log_q, alpha, means, sds):
    log_p = torch.distributions.Normal(means[:, None, None], sds[None, :, None]).log_prob(x)
    values = numpy_like(log_q.expand_as(log_p), torch.log_softmax(log_p, -1), alpha)
    i, j = np.unravel_index(int(values.argmin()), values.shape)
    return means[i], sds[j], values[i, j]


def gaussian_by_sorting(x, log_q, alpha, means, sds):
    found = []
    for mean in means:
        for sd in sds:
            density = torch.exp(-((x - mean) ** 2) / (2 * sd**2)) + 1e-300
            found.append((float(apo_edu.alpha_divergence(log_q, (density / density.sum()).log(), alpha)), mean, sd))
    value, mean, sd = min(found)
    return [float(mean), float(sd), value]


def lyapunov_by_velocity(logits, log_q, alpha):
    """The rate as (u - u*) times the velocity, not as a covariance."""
    u, target = logits - logits.mean(), log_q - log_q.mean()
    velocity = -grad_by_jacobian(log_q, logits.log_softmax(-1), alpha)
    return (u - target).square().sum() / 2, torch.dot(u - target, velocity)


def lyapunov_looped(logits, log_q, alpha):
    u, v = logits.tolist(), log_q.tolist()
    away = [a - b for a, b in zip(u, v, strict=True)]
    away = [a - sum(away) / len(away) for a in away]
    total = math.log(sum(map(math.exp, u)))
    p, r = [math.exp(a - total) for a in u], [b - a + total for a, b in zip(u, v, strict=True)]
    z = [x if alpha == 0 else math.expm1(alpha * x) / alpha for x in r]
    mean = sum(a * b for a, b in zip(p, z, strict=True))
    return sum(a * a for a in away) / 2, sum(d * w * (x - mean) for d, w, x in zip(away, p, z, strict=True))


RIGHT = {
    "alpha_divergence": (looped, numpy_like),
    "box_cox": (box_cox_by_numpy, box_cox_looped),
    "alpha_divergence_grad": (grad_by_jacobian, grad_looped),
    "best_gaussian": (gaussian_vectorised, gaussian_by_sorting),
    "lyapunov": (lyapunov_by_velocity, lyapunov_looped),
}


@pytest.mark.parametrize(("name", "answer"), [(name, f) for name, answers in RIGHT.items() for f in answers])
def test_other_right_styles_pass(name, answer):
    for seed in range(4):
        verdicts = judge(A1[name], answer, ADA, fresh=str(seed))
        assert all(verdict.passed for verdict in verdicts), [v.says for v in verdicts if not v.passed]


def test_every_function_has_other_right_styles():
    assert set(RIGHT) == {exercise.name for exercise in A1.exercises if not exercise.value}


@pytest.mark.parametrize("number", range(60))
def test_values_as_students_write_them(number):
    student = Student(f"by hand {number}", "test")
    (q, q_tails), (p, p_tails) = A1["by_hand"].numbers(student.generator("by_hand")).values()
    forward = q * math.log(q / p) + q_tails * math.log(q_tails / p_tails)
    reverse = p * math.log(p / q) + p_tails * math.log(p_tails / q_tails)
    rounded = [round(forward, 3), round(reverse, 3)]
    cut = [math.floor(1000 * x) / 1000 for x in (forward, reverse)]
    scalars = (torch.tensor(forward), torch.tensor(reverse, dtype=torch.float64))
    for answer in ((forward, reverse), rounded, cut, scalars, torch.tensor(rounded), np.array(rounded)):
        assert judge(A1["by_hand"], answer, student)[0].passed
    for answer in ((forward + 2e-3, reverse), (forward, reverse - 2e-3), (reverse, forward)):
        assert not judge(A1["by_hand"], answer, student)[0].passed


@pytest.mark.parametrize(
    ("q", "p", "forward", "reverse"),
    # 3/4 log 3 - 1/4 log 3; and 1/2 (log 5/2 + log 5/8) = 1/2 log 25/16, with 1/5 log 2/5 + 4/5 log 8/5.
    [
        ((0.75, 0.25), (0.25, 0.75), 0.5 * math.log(3), 0.5 * math.log(3)),
        ((0.5, 0.5), (0.2, 0.8), math.log(1.25), 0.2 * math.log(0.4) + 0.8 * math.log(1.6)),
    ],
)
def test_two_coins_by_hand(q, p, forward, reverse):
    assert A1["by_hand"].solution(q, p) == pytest.approx((forward, reverse), abs=1e-6)


def test_a_rounded_value_is_told_from_a_wrong_one():
    seen = 0
    for student in CLASS:
        right = A1["by_hand"].solution(**student.numbers(A1["by_hand"]))
        (verdict,) = judge(A1["by_hand"], [round(value, 2) for value in right], student)
        off = max(abs(round(value, 2) - value) for value in right) / max(right)
        if 3e-3 < off < 0.01:
            seen += 1
            assert verdict.mistake == "too few digits" and "more digits are asked for" in verdict.says
        (verdict,) = judge(A1["by_hand"], [1.00567 * value for value in right[:1]] + [right[1]], student)
        assert verdict.passed or verdict.mistake != "too few digits"
    assert seen


def test_rising_takes_any_example_that_rises():
    """Another search than the reference's: four arms, the library's gradient, any order."""
    for student in CLASS:
        flow = student.numbers(A1["rising"])["alpha_flow"]
        generator = torch.Generator().manual_seed(5)
        log_q, log_p = (2 * torch.randn(2, 20000, 4, generator=generator, dtype=torch.float64)).log_softmax(-1)
        order = 1.3 if flow < 0.5 else -0.3
        slopes = apo_edu.alpha_divergence_grad(log_q, log_p, order), apo_edu.alpha_divergence_grad(log_q, log_p, flow)
        at = int(torch.cosine_similarity(*slopes, dim=-1).argmin())
        (verdict,) = judge(A1["rising"], (log_q[at].exp(), log_p[at].exp(), order), student)
        assert verdict.passed, verdict.says


# Mistakes as students write them, in plain torch and without the library: the same diagnosis as the named one.
def plain(body, head="log_q, log_p, alpha"):
    names = {"torch": torch, "math": math, "apo_edu": apo_edu}
    exec(f"def answer({head}):\n" + "\n".join(f"    {line}" for line in body.strip().splitlines()), names)
    return names["answer"]


KLS = """
if alpha == 0: return (log_p.exp() * (log_p - log_q)).sum(-1)
if alpha == 1: return (log_q.exp() * (log_q - log_p)).sum(-1)
"""
POWERS = "s = (log_q.exp()**alpha * log_p.exp()**(1 - alpha)).sum(-1)\n"
NAIVE = POWERS + "return (1 - s) / (alpha * (1 - alpha))"
GRAD = "return -p * (z - (p * z).sum(-1, keepdim=True))"
WEIGHT = "r = log_q - log_p\nz = r if alpha == 0 else torch.expm1(alpha * r) / alpha\np = log_p.exp()\n"
FLOW = "log_p = logits.log_softmax(-1)\n" + WEIGHT + "d = logits - log_q\nc = d - d.mean()\n"
SEARCH = """
best = None
for m in means.tolist():
    for s in sds.tolist():
        log_p = SHAPE.log_softmax(-1)
        v = float(apo_edu.alpha_divergence(log_q, log_p, alpha))
        if best is None or v < best[2]:
            best = (m, s, v)
return best
"""
CLAMP = "alpha = min(max(alpha, 1e-6), 1 - 1e-6) if 0 <= alpha <= 1 else alpha\n"


EXACT = """
if alpha == 0: return (log_p.exp() * (torch.expm1(log_q - log_p) - (log_q - log_p))).sum(-1)
if alpha == 1: return (log_q.exp() * (torch.expm1(log_p - log_q) - (log_p - log_q))).sum(-1)
"""


def near_the_ends(low, inner, form=NAIVE, kls=KLS):
    """The KL within `low` of an end, and a form of the sum elsewhere."""
    kls = kls.replace("alpha == 0", f"abs(alpha) < {low}").replace("alpha == 1", f"abs(1 - alpha) < {low}")
    return kls + inner + form


STABLE = """
if alpha > 0.5: log_q, log_p, alpha = log_p, log_q, 1 - alpha
r = log_q - log_p
return (log_p.exp() * (torch.expm1(r) - torch.expm1(alpha * r) / alpha)).sum(-1) / (1 - alpha)
"""
ONE_SIDED = """
r = log_q - log_p
if alpha == 0: return (log_p.exp() * (torch.expm1(r) - r)).sum(-1)
if alpha == 1: return (log_q.exp() * (torch.expm1(-r) + r)).sum(-1)
return (log_p.exp() * (torch.expm1(r) - torch.expm1(alpha * r) / alpha)).sum(-1) / (1 - alpha)
"""
AUTOGRAD = """
with torch.enable_grad():
    u = log_p.clone().requires_grad_()
    p = u.softmax(-1)
    if alpha == 0: d = (p * (p.log() - log_q)).sum(-1)
    elif alpha == 1: d = (log_q.exp() * (log_q - p.log())).sum(-1)
    else: d = (1 - (log_q.exp()**alpha * p**(1 - alpha)).sum(-1)) / (alpha * (1 - alpha))
    return torch.autograd.grad(d.sum(), u)[0]
"""
NEAR_0 = "r = log_q - log_p\nz = r if abs(alpha) < 1e-4 else torch.expm1(alpha * r) / alpha\np = log_p.exp()\n"
WRONG = [
    ("alpha_divergence", "good near 0, not near 1", ONE_SIDED),
    *(("alpha_divergence", "an early switch, and lost digits", near_the_ends(low, "")) for low in (0.05, 1e-3, 1e-5)),
    ("alpha_divergence", "an early switch, and lost digits", near_the_ends(0.01, "", STABLE)),
    ("alpha_divergence", "an early switch to the limits", near_the_ends(0.03, "", STABLE, EXACT)),
    ("alpha_divergence", "an early switch to the limits", near_the_ends(1e-5, "", STABLE, EXACT)),
    ("alpha_divergence", "an epsilon in the divisor", POWERS + "return (1 - s) / (alpha * (1 - alpha) + 1e-8)"),
    ("alpha_divergence", "one KL for both limits", KLS.splitlines()[2].replace("alpha == 1", "alpha in (0, 1)") + "\n" + NAIVE),
    ("alpha_divergence", "alpha squared", KLS + POWERS + "return (1 - s) / alpha**2"),
    ("box_cox", "an early switch to the limit", "return log_w if abs(alpha) < 0.01 else torch.expm1(alpha * log_w) / alpha"),
    ("box_cox", "an early switch to the limit", "return log_w if abs(alpha) < 1e-6 else (log_w.exp()**alpha - 1) / alpha"),
    ("box_cox", "a power of the logarithm", "return log_w if alpha == 0 else log_w**alpha"),
    ("box_cox", "brackets missing", "return log_w if alpha == 0 else log_w.exp()**alpha - 1 / alpha"),
    ("box_cox", "the limit is log log w", "return log_w.log() if alpha == 0 else torch.expm1(alpha * log_w) / alpha"),
    ("alpha_divergence_grad", "an early switch to the limit", NEAR_0 + GRAD),
    ("alpha_divergence_grad", "1/(1 - alpha) left over", WEIGHT + GRAD + " / (1 - alpha)"),
    ("alpha_divergence_grad", "autograd", AUTOGRAD),
    ("alpha_divergence_grad", "mean for sum", WEIGHT + "return -p * (z - (p * z).mean(-1, keepdim=True))"),
    ("alpha_divergence_grad", "q for p", WEIGHT + "p = log_q.exp()\n" + GRAD),
    ("lyapunov", "centred under p", FLOW + "c = d - (p * d).sum()\n"
     "return (c**2).sum() / 2, -((p * r * z).sum() - (p * r).sum() * (p * z).sum())"),
    ("lyapunov", "V alone", FLOW + "return (c**2).sum() / 2"),
    ("lyapunov", "mean under q", FLOW + "p = log_q.exp()\nreturn (c**2).sum() / 2, "
     "-((p * r * z).sum() - (p * r).sum() * (p * z).sum())"),
    ("best_gaussian", "returns inside the loop", SEARCH.replace("SHAPE", "(-0.5 * ((x - m) / s)**2)")
     .replace("return best", "    return best")),
    ("alpha_divergence", "the naive form", KLS + NAIVE),
    ("alpha_divergence", "no limits", NAIVE),
    ("alpha_divergence", "arguments swapped", "log_q, log_p = log_p, log_q\n" + KLS + NAIVE),
    ("alpha_divergence", "1/alpha missing", KLS + POWERS + "return (1 - s) / (1 - alpha)"),
    ("alpha_divergence", "Renyi's divergence", KLS + POWERS + "return s.log() / (alpha - 1)"),
    ("alpha_divergence", "an epsilon for the limits", CLAMP + NAIVE),
    ("alpha_divergence", "mean for sum", KLS.replace("sum", "mean") + NAIVE + " / log_q.shape[-1]"),
    ("box_cox", "no limit", "return (log_w.exp()**alpha - 1) / alpha"),
    ("box_cox", "digits lost", "return log_w if alpha == 0 else (log_w.exp()**alpha - 1) / alpha"),
    ("box_cox", "log w taken for w", "return log_w if alpha == 0 else (log_w**alpha - 1) / alpha"),
    ("box_cox", "the limit is 1", "return torch.ones_like(log_w) if alpha == 0 else (log_w.exp()**alpha - 1) / alpha"),
    ("alpha_divergence_grad", "no centring", WEIGHT + "return -p * z"),
    ("alpha_divergence_grad", "plain mean", WEIGHT + "return -p * (z - z.mean(-1, keepdim=True))"),
    ("alpha_divergence_grad", "sign", WEIGHT + "return p * (z - (p * z).sum(-1, keepdim=True))"),
    ("alpha_divergence_grad", "p missing", WEIGHT + "return (p * z).sum(-1, keepdim=True) - z"),
    ("alpha_divergence_grad", "1/alpha missing", WEIGHT + "z = z if alpha == 0 else alpha * z\n" + GRAD),
    ("lyapunov", "not centred", FLOW + "return (d**2).sum() / 2, -((p * r * z).sum() - (p * r).sum() * (p * z).sum())"),
    ("lyapunov", "no covariance", FLOW + "return (c**2).sum() / 2, -(p * r * z).sum()"),
    ("lyapunov", "sign of the rate", FLOW + "return (c**2).sum() / 2, (p * r * z).sum() - (p * r).sum() * (p * z).sum()"),
    ("best_gaussian", "1/2 missing", SEARCH.replace("SHAPE", "(-((x - m) / s)**2)")),
    ("best_gaussian", "variance for sd", SEARCH.replace("SHAPE", "(-(x - m)**2 / (2 * s))")),
]  # fmt: skip
HEADS = {"box_cox": "log_w, alpha", "lyapunov": "logits, log_q, alpha", "best_gaussian": "x, log_q, alpha, means, sds"}


@pytest.mark.parametrize(("name", "mistake", "body"), WRONG, ids=[f"{name}-{mistake}" for name, mistake, _ in WRONG])
def test_mistakes_as_students_write_them(name, mistake, body):
    answer = plain(body, HEADS.get(name, "log_q, log_p, alpha"))
    verdicts = [verdict for verdict in judge(A1[name], answer, ADA) if not verdict.passed]
    # Written naively, a second fault, lost digits, may show where the named one does not; then the check's hint is given.
    assert verdicts[0].mistake == mistake, [(v.mistake, v.says) for v in verdicts]
    assert {verdict.mistake for verdict in verdicts} <= {mistake, "unnamed"}


@pytest.mark.parametrize("low", [0.05, 0.021, 2e-3, 2e-6])
def test_a_limit_in_place_of_the_value_loses_its_points(low):
    """What passed before: the KL itself close to an end, log w itself near 0."""

    def divergence(log_q, log_p, alpha):
        end = 0.0 if abs(alpha) < low else 1.0 if abs(1 - alpha) < low else alpha
        return apo_edu.alpha_divergence(log_q, log_p, end)

    def rounded(alpha):
        return 0.0 if abs(alpha) < low else alpha

    answers = {
        "alpha_divergence": (divergence, {"near_0", "near_1"}),
        "box_cox": (lambda log_w, alpha: apo_edu.box_cox(log_w, rounded(alpha)), {"digits"}),
        "alpha_divergence_grad": (
            lambda log_q, log_p, alpha: apo_edu.alpha_divergence_grad(log_q, log_p, rounded(alpha)), {"digits"}
        ),
    }  # fmt: skip
    for name, (answer, checks) in answers.items():
        for student in CLASS[:4]:
            verdicts = judge(A1[name], answer, student, guarded=False)
            assert {verdict.check.name for verdict in verdicts if not verdict.passed} == checks
            assert all("early switch" in verdict.mistake for verdict in verdicts if not verdict.passed)


def test_the_shares_that_the_messages_name():
    """At alpha = 0.02 the limit is off in the second or third digit: in the middle of many pairs by 0.3 to 3 %."""
    log_q, log_p = (log_probs(torch.Generator().manual_seed(s), 2000, 5) for s in (1, 2))
    values = [apo_edu.alpha_divergence(log_q, log_p, alpha) for alpha in (0.0, 0.02, 0.98, 1.0)]
    for limit, value in (values[:2], values[:1:-1]):
        assert 0.003 < float((limit / value - 1).abs().median()) < 0.03
    gradients = [apo_edu.alpha_divergence_grad(log_q, log_p, alpha) for alpha in (0.0, 0.02)]
    weights = [apo_edu.box_cox(log_q - log_p, alpha) for alpha in (0.0, 0.02)]
    for limit, value in (gradients, weights):
        assert 0.003 < float(((limit - value).norm(dim=-1) / value.norm(dim=-1)).median()) < 0.03


def test_numbers_in_the_model_answers(capsys):
    """Digits of the naive form, the best Gaussians, the valley, and how often a random pair rises."""
    for exponent, digits in ((4, 7), (6, 3), (8, 0)):
        assert A1["digits_left"].solution(exponent) == (f"about {digits}" if digits else "none")
        show_digits(A1["alpha_divergence"].solution, exponent)
        (line,) = (line for line in capsys.readouterr().out.splitlines() if line.endswith("<- yours"))
        assert abs(float(line.split()[4]) - digits) < 0.5
    search = A1["best_gaussian"].referee
    for weight, mean in ((0.35, 3.0), (0.65, -3.0)):
        assert search(*_candidates(3.0, weight, 0.1))[:2] == pytest.approx((mean, 0.6))
        assert abs(search(*_candidates(1.2, weight, 0.1))[0]) < 0.4
    x, log_q, *_ = _candidates(3.0, 0.35, 1.0)
    mean, sd, _ = search(*_candidates(3.0, 0.35, 1.0))
    log_p = (-0.5 * ((x - mean) / sd) ** 2).log_softmax(-1)
    valley = x.abs() <= 1
    assert float(log_p.exp()[valley].sum()) == pytest.approx(0.25, abs=0.03) and (log_p - log_q)[valley].min() > 4
    generator = torch.Generator().manual_seed(1)
    log_q, log_p = (3 * torch.randn(2, 20000, 3, generator=generator, dtype=torch.float64)).log_softmax(-1)
    for flow in (0.0, 0.25, 0.75, 1.0):
        slopes = [apo_edu.alpha_divergence_grad(log_q, log_p, order) for order in (flow, 1.0 if flow < 0.5 else 0.0)]
        assert 0.01 < float((torch.cosine_similarity(*slopes, dim=-1) < -0.05).double().mean()) < 0.04


def test_the_student_version_does_not_answer_its_own_questions():
    text = "\n".join(cell.source for cell in student_version(handout.source_book(A1, FOLDER)).cells)
    for answer in (
        "Chebyshev",
        "u - u*",
        "u-u^*",
        "2e-16",
        "distance^2",
        "second order",
        "increasing",
        "without bound",
    ):
        assert answer not in text, answer


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


def test_a_wrong_shape_is_named():
    body = KLS.replace("-1", "") + POWERS.replace("-1", "") + "return (1 - s) / (alpha * (1 - alpha))"
    verdict = next(v for v in judge(A1["alpha_divergence"], plain(body), ADA) if v.check.name == "batch")
    assert "gives shape (); expected (2, 3)" in verdict.says and "last dimension only" in verdict.says


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
