"""The questions of lesson 01."""

from .asking import Question

QUESTIONS = {
    "coins": Question(
        "As p(heads) goes to 0, which divergence grows without bound?",
        {
            "forward KL(q || p)": "Yes: it contains 0.8 log(0.8 / p(heads)). Forgetting what the target wants is unforgivable.",
            "reverse KL(p || q)": "No: it tends to log(1 / q(tails)) = 1.6 nats. Forgetting heads costs it a finite price.",
            "both": "No: the reverse KL stays finite as long as q has mass wherever p has.",
            "neither": "No: the forward KL contains log(1 / p(heads)), which has no bound.",
        },
        answer="forward KL(q || p)",
        alt="Divergence against p(heads) for alpha 0, 0.5 and 1: only alpha = 1 rises without bound at p(heads) = 0.",
    ),
    "log_weight": Question(
        "A sample has log w = 3: the target wants it 20 times as often as the policy gives it. Its weight at alpha = 0 is",
        {
            "3": "Yes: log w. At alpha = 1 the same sample would weigh w - 1 = 19.1.",
            "19.1": "That is w - 1, the weight at alpha = 1.",
            "1": "That would be no reweighting at all: w^0 = 1, which centring takes away.",
        },
        answer="3",
    ),
}

SELF_TEST = [
    (
        "Take alpha to 0 in the formula: which KL appears, and by which symmetry can you avoid a second calculation?",
        "KL(p || q). Since D_alpha(q || p) = D_(1-alpha)(p || q), the limit at 0 is the limit at 1 with q and p exchanged.",
    ),
    (
        "A sample has w = q/p = 0.05. How does its weight differ between alpha = 0 and alpha = 1?",
        "log 0.05 = -3.0 against 0.05 - 1 = -0.95: the reverse KL pushes misplaced mass away three times as hard.",
    ),
    (
        "A paper uses Amari's a = 0. Which alpha is that, and which famous distance is it a multiple of?",
        "alpha = 1/2, where D = 4 (1 - sum sqrt(qp)): four times the squared Hellinger distance.",
    ),
]
