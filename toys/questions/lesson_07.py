"""The questions of lesson 07."""

from .asking import Question

QUESTIONS = {
    "variance": Question(
        "As alpha goes to 0, the variance of the uncentred estimator",
        {
            "grows like 1 / alpha^2": "Yes: the constant part 1/alpha of the weight is pure noise, multiplied by grad log p.",
            "stays bounded": "That is the centred one.",
            "goes to 0": "No: the weight 1/alpha grows.",
        },
        answer="grows like 1 / alpha^2",
        alt="Variance of a gradient estimate against alpha on log axes for three estimators; the uncentred one has "
        "slope -2, the centred "
        "and the clipped one stay near 0.07 for small alpha.",
    ),
    "direction": Question(
        "One prompt, rewards 0 and 1, first on-policy step. Compared with GRPO, APO's gradient for alpha between 0 and 1",
        {
            "turns with alpha": "Not with two reward values: q then takes two values, so every centred reshaping is "
            "proportional.",
            "points the same way for every alpha": "Yes, cosine 1 to rounding. Alpha is only a step size here, which an "
            "optimiser like "
            "Adam mostly undoes.",
            "is zero": "No: its length is 1.0 to 1.3 here.",
        },
        answer="points the same way for every alpha",
        alt="Cosine with GRPO's gradient against alpha: exactly 1 for binary rewards at the anchor, falling from 1 to "
        "0.92 for graded "
        "rewards, 0.99 for binary rewards off the anchor; lengths beside it, between 0.88 and 1.29.",
    ),
}

SELF_TEST = [
    (
        "Your estimator's variance explodes at alpha = 0.05. What is the cheapest cure?",
        "Centre the weights: subtract the mean of r^alpha (over the other samples). The expectation stays, the 1/alpha "
        "noise goes.",
    ),
    (
        "GRPO prints loss 0.0000 at the first step. Is it broken?",
        "No: with ratio 1 the value is minus the mean advantage, which is 0; the gradient is not. Print the gradient norm.",
    ),
    (
        "On which kind of task would you look for a benefit of alpha, and why not on pass/fail math?",
        "Graded rewards or several updates per batch. With pass/fail and one on-policy update, every alpha gives the "
        "same direction "
        "per prompt.",
    ),
]
