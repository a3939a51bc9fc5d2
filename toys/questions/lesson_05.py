"""The questions of lesson 05."""

from .asking import Question

QUESTIONS = {
    "wrong_arm": Question(
        "Which of the four still sit at the wrong arm after 300 steps in most seeds?",
        {
            "only the guard": "No: it leaves in nine seeds of ten.",
            "confidence only and fixed 0.35": "Yes: 18 and all 20 of 20. What they share is a small alpha, 0.45 on "
            "average and 0.35; the guard's "
            "is 0.89, and it does no better than a fixed 0.9.",
            "both fixed ones: only a schedule can adapt": "No: a fixed 0.9 leaves as often as the guard, in 18 of 20 seeds.",
            "all but the guard": "No: a fixed 0.9 leaves as often as the guard, in 18 of 20 seeds.",
        },
        answer="confidence only and fixed 0.35",
        alt="Expected reward and alpha against the step, medians and quartiles of 20 runs: confidence alone and a fixed "
        "0.35 stay at reward "
        "0.5; the guard and a fixed 0.9 climb above 0.9 together, the guard's alpha near 0.9 all the time.",
    ),
    "pure_noise": Question(
        "Mean p_t under pure noise, with the paper's gate (no margin):",
        (0.0, 0.5, 0.01),
        answer=0.23,
        tolerance=0.05,
        label="mean p",
        explain={
            "low": "More: half of all noise is positive, and the gate does not average it away.",
            "right": "Yes, about 0.23: nothing improves, and alpha is dragged a quarter of the way down.",
            "high": "Less: tanh squashes large gains, and half of the noise is negative.",
        },
        alt="Bars of the mean gate under pure noise for margins of 0, 1 and 2 standard errors: 0.23, 0.05 and 0.01.",
    ),
    "does_it_pay": Question(
        "Six tasks on bandits, 100 seeds, every rule at its own best learning rate. On how many does the guard end "
        "above the best fixed "
        "alpha?",
        (0, 6, 1),
        answer=0,
        label="tasks",
        explain={
            "low": "It cannot be fewer than none.",
            "right": "Yes, on none: it is clearly below on four and cannot be told from it on two.",
            "high": "On none: it is clearly below on four and cannot be told from it on two.",
        },
        alt="Differences to the best fixed alpha on six tasks with 95 % intervals. The guard: -0.21 with lucky arms, "
        "-0.04 where the "
        "good arms are replaced, otherwise between -0.03 and 0. A cap by the reward's variance: 0.04 where an exact "
        "judge turns noisy, "
        "0.01 under steady noise, about 0 elsewhere. Right: where the alpha of each schedule comes to rest.",
    ),
}

SELF_TEST = [
    (
        "Confidence is 1 and the reward falls. Where is alpha?",
        "At alpha_max: the improvement gate is closed, and the product is 0.",
    ),
    (
        "A colleague shows that the guard escapes from a wrong arm and a fixed 0.35 does not. Which two controls do you "
        "ask for?",
        "A fixed 0.9, which escapes as well: the guard hardly moves. And 0.35 with steps of 0.9's length, which escapes "
        "too: much of it is "
        "step length.",
    ),
    (
        "Your run's alpha has not moved for a thousand steps and confidence reads exactly 0. What do you check first?",
        "confidence_from: on policy the anchored policy is uniform, so its confidence is 0 whatever the model does.",
    ),
]
