"""Make tests/golden/alpha_divergence.json: values and gradients of D_alpha with 60 digits, from the definition alone.

The inputs are float64 log-probabilities, written exactly; the distributions are those numbers renormalised with 60 digits.
The gradient is the analytic one of arXiv 2512.22953, checked here against a 60-digit difference quotient. Run by
`make golden`.
"""

import json
import random
from pathlib import Path

from mpmath import mp, mpf

mp.dps = 60
ALPHAS = (-2.0, -0.3, 0.0, 1e-12, 1e-5, 0.05, 0.35, 0.5, 0.75, 0.9, 1.0 - 1e-12, 1.0, 1.2, 3.0)


def log_softmax(logits):
    total = mp.log(sum(mp.exp(x) for x in logits))
    return [x - total for x in logits]


def divergence(log_q, log_p, alpha):
    if alpha == 0:
        return sum(mp.exp(lp) * (lp - lq) for lq, lp in zip(log_q, log_p, strict=True))
    if alpha == 1:
        return sum(mp.exp(lq) * (lq - lp) for lq, lp in zip(log_q, log_p, strict=True))
    power = sum(mp.exp(alpha * lq + (1 - alpha) * lp) for lq, lp in zip(log_q, log_p, strict=True))
    return (1 - power) / (alpha * (1 - alpha))


def gradient(log_q, log_p, alpha):
    if alpha == 0:
        mean = sum(mp.exp(lp) * (lq - lp) for lq, lp in zip(log_q, log_p, strict=True))
        return [-mp.exp(lp) * (lq - lp - mean) for lq, lp in zip(log_q, log_p, strict=True)]
    terms = [mp.exp(alpha * lq + (1 - alpha) * lp) for lq, lp in zip(log_q, log_p, strict=True)]
    return [-(term - mp.exp(lp) * sum(terms)) / alpha for term, lp in zip(terms, log_p, strict=True)]


@mp.workdps(250)  # a difference of nearly equal numbers, some of 80 digits
def check_gradient(log_q, log_p, alpha, grad):
    log_q, log_p = (log_softmax(logs) for logs in (log_q, log_p))
    step = mpf(10) ** -40
    moved = log_softmax([lp + (step if i == 0 else 0) for i, lp in enumerate(log_p)])
    back = log_softmax([lp - (step if i == 0 else 0) for i, lp in enumerate(log_p)])
    quotient = (divergence(log_q, moved, alpha) - divergence(log_q, back, alpha)) / (2 * step)
    assert abs(quotient - grad[0]) <= mpf(10) ** -15 * (1 + abs(grad[0])), (alpha, quotient, grad[0])


def cases():
    rng = random.Random(20251222)
    for n in (2, 5, 16):
        for scale in (0.05, 1.0, 5.0):
            q, p = ([rng.gauss(0.0, scale) for _ in range(n)] for _ in range(2))
            yield f"random n={n} scale={scale}", q, p
    yield "identical", [0.3, -1.0, 2.0], [0.3, -1.0, 2.0]
    yield "nearly identical", [0.3, -1.0, 2.0], [0.3 + 1e-6, -1.0, 2.0 - 1e-6]
    yield "two modes, policy on one", [0.0, -20.0, 0.0], [0.0, -20.0, -40.0]
    yield "far apart", [0.0, -90.0], [-90.0, 0.0]


def main() -> None:
    out = []
    for name, q, p in cases():
        log_q, log_p = (log_softmax([mpf(x) for x in logits]) for logits in (q, p))
        # What a program gets: the nearest float64 of each log-probability; what is true of exactly those numbers.
        floats = [[float(x) for x in logs] for logs in (log_q, log_p)]
        log_q, log_p = (log_softmax([mpf(x) for x in logs]) for logs in floats)
        rows = []
        # Where p_j is within rounding of 1 and the order is negative, the gradient is the small difference of two huge
        # numbers: no float64 program gives it to nine digits. The docstring of alpha_divergence_grad says so.
        for alpha in (a for a in ALPHAS if a >= 0 or name != "far apart"):
            grad = gradient(log_q, log_p, mpf(alpha))
            check_gradient(log_q, log_p, mpf(alpha), grad)
            value = divergence(log_q, log_p, mpf(alpha))
            rows.append({"alpha": alpha, "value": mp.nstr(value, 25), "grad": [mp.nstr(g, 25) for g in grad]})
        out.append({"name": name, "log_q": floats[0], "log_p": floats[1], "rows": rows})
    text = json.dumps(
        {"convention": "D_alpha(q||p), 1 is KL(q||p); grad is d/du, p = softmax(u)", "cases": out}, indent=0
    )
    Path(__file__).with_name("alpha_divergence.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
