"""The questions of lesson 02."""

from .asking import Question

QUESTIONS = {
    "two_kls": Question(
        "Which divergence makes the best-fitting Gaussian cover both modes?",
        {
            "forward KL(q || p), alpha = 1": "Yes. Its fit has the mean and variance of q, valley and all (moment "
            "matching).",
            "reverse KL(p || q), alpha = 0": "No: it would pay for every bit of mass in the valley, so it settles on "
            "the larger mode.",
            "either": "No: look at where the two fits put their mass.",
            "neither": "No: forward KL may not leave out what q has, so it covers.",
        },
        answer="forward KL(q || p), alpha = 1",
        alt="Target with a large left and a small right mode; the alpha = 1 fit is wide, the alpha = 0 fit sits on the "
        "left mode.",
    ),
    "first_lock": Question(
        "You lower alpha from 1. Below which alpha does a fit on a single mode become the best of all?",
        (0.0, 1.0, 0.05),
        answer=0.27,
        tolerance=0.08,
        label="alpha",
        explain={
            "low": "A little earlier: the two mode-locked fits are best from about 0.27 down.",
            "right": "Yes, between 0.25 and 0.275; they exist, as local minima, from about 0.58 down.",
            "high": "Later than that: at 0.5 they exist, but the covering fit still is better.",
        },
        alt="Mean of every stationary fit against alpha, with your answer as a dashed line.",
    ),
    "let_go": Question(
        "At alpha = 0.2 a fit sits on the left of two modes that are 5 apart (sd 0.6 each). You drag the modes together, and "
        "the fit follows: each descent starts where the last one ended. At which distance does it let go and cover both?",
        (2.0, 5.0, 0.1),
        answer=3.1,
        tolerance=0.3,
        label="distance",
        explain={
            "low": "Earlier: below 3.12 there is no minimum on a mode any more, and nothing else held the fit there.",
            "right": "Yes, at 3.12. Covering is the best fit from 3.83 down, but the optimiser stays in its minimum until "
            "that vanishes.",
            "high": "It holds on longer: at 3.83 covering becomes the best fit, but the fit's own minimum is still there.",
        },
        alt="Distance of the fit's mean from the middle against the distance of the modes. The best fit jumps at 3.83; the "
        "fit dragged together stays on its mode down to 3.12; dragged apart, it stays in the middle up to 5.",
    ),
}

SELF_TEST = [
    (
        "You anneal alpha slowly from 1 to 0 on the equal modes at +-2. Where does the fit end?",
        "In the covering fit, with sd 1.79: that minimum never disappears. Here lowering alpha alone does not make a "
        "policy seek; it must also leave the valley, by noise or by a better start.",
    ),
    (
        "Why can forward KL not leave out the small mode, and what would reverse KL pay for leaving it out?",
        "Its integrand (lesson 01) is q log(q/p) - q + p: where q has mass and p goes to 0, it grows without bound. "
        "That of reverse KL, p log(p/q) - p + q, goes to q there: the price is the mode's mass, 0.3 nats, and no more.",
    ),
    (
        "Someone reports that alpha has no effect. Name one honest reason that this lesson showed.",
        "Their modes may be too close for the policy's family: at +-1.2 there is one minimum for every alpha in [0, "
        "1]. (Lesson 06: or their policy can represent the target exactly.)",
    ),
]
