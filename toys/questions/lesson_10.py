"""The questions of lesson 10."""

from .asking import Question

QUESTIONS = {
    "one_knob": Question(
        "A group with rewards 1, 0.5, 0.5, 0; first update on these samples. Beside alpha 0.9 with beta_r 0.3 we try "
        "alpha 0.3 with beta_r 0.1. The gradient has",
        {
            "the same direction and another length": "Yes: alpha / beta_r is 3 in both, and nothing else turns it.",
            "another direction, since 0.3 seeks modes and 0.9 covers": "No: on policy the sampled group is uniform "
            "under the anchored policy, so there is no mode to seek. Only alpha / beta_r is left.",
            "the same direction and the same length": "The direction, yes. The length is not: 1.85 against 1.04.",
        },
        answer="the same direction and another length",
    ),
    "switch": Question(
        "One arm pays 0.5 for sure, the other 1 with probability 0.4. From which kappa on does a policy that learns "
        "from large groups go to the gamble? (At kappa = 0 it follows the mean.)",
        (0.0, 3.0, 0.05),
        answer=0.8,
        tolerance=0.2,
        label="kappa",
        explain={
            "low": "Later: the gamble's mean is a fifth lower, and the curve must bend enough to make up for it. 0.4 "
            "(e^kappa - 1) = e^(kappa/2) - 1 has the root 2 ln 1.5 = 0.81.",
            "right": "Yes, 2 ln 1.5 = 0.81, the root of 0.4 (e^kappa - 1) = e^(kappa/2) - 1. At beta_r 0.3 that is "
            "alpha 0.24: all of the paper's range, 0.35 to 0.9, lies beyond it.",
            "high": "Sooner: 0.4 (e^kappa - 1) = e^(kappa/2) - 1 has the root 2 ln 1.5 = 0.81. At beta_r 0.3 that is "
            "alpha 0.24.",
        },
        alt="Certainty equivalents against kappa: the sure arm flat at 0.5, the gamble rising from 0.29 to 0.72 and "
        "crossing it at 0.81; the range of alpha from 0.35 to 0.9 is shaded, all of it to the right of the crossing.",
    ),
    "group_size": Question(
        "The same two arms. The paper samples 6 per prompt; you can pay for 64. In larger groups the policy goes to "
        "the gamble",
        {
            "at a smaller alpha": "Yes: 0.59 with groups of 4, 0.32 with 8, 0.25 with 64. A win enters its own "
            "group's normaliser and is damped by it; in a large group one win more hardly counts there.",
            "at the same alpha": "No: theory gives the limit of large groups. In a small one a win damps itself.",
            "at a larger alpha": "No: more samples average noise away, but what they converge to is the exponential "
            "utility, not the mean.",
        },
        answer="at a smaller alpha",
        alt="Left: share of 100 runs that end on the gamble against alpha for groups of 4, 8 and 64; larger groups "
        "switch at a smaller alpha. Right: the alpha of the switch against the group size, measured and predicted, "
        "falling from 0.59 to 0.25.",
    ),
    "lucky": Question(
        "Two good arms pay N(1, 0.1), four lucky ones N(0.7, 0.8), ten about 0. At alpha 0.9, groups of 32 instead "
        "of 8 make the final reward (N is mean and standard deviation)",
        {
            "better: more samples, less noise": "Not even for alpha = 0 and GRPO, where 32 changes nothing. At 0.9 a "
            "larger group only holds more lucky draws, and the largest draw is what it follows.",
            "worse": "Yes: 0.78 with groups of 8, 0.70 with 32, which is the lucky arms' mean. With groups of 2 it "
            "was 0.97.",
            "no different": "No: see the right panel.",
        },
        answer="worse",
        alt="Left: the probability of the lucky arms over 300 steps with groups of 8; it falls to 0.01 for alpha 0 "
        "and GRPO, and rises to 0.71 for alpha 0.9. Right: the final reward against the group size; it falls with "
        "the group size for alpha 0.9 and 0.35 and stays at 0.99 for alpha 0 and GRPO.",
    ),
    "immune": Question(
        "For which of these rewards does a large alpha cost reward?",
        {
            "graded ones, since they turn the gradient": "They do turn it, by 12 degrees without noise and by 28 "
            "with, and it costs nothing: the best arm stays the best when all carry the same risk.",
            "those whose risk differs between answers": "Yes: a worse answer wins only where its certainty "
            "equivalent passes the best one's.",
            "0 and 1": "No: the arms differ in risk there too, but with two values the one that pays 1 most often "
            "has the largest mean and the largest certainty equivalent.",
        },
        answer="those whose risk differs between answers",
        alt="Left: the angle between the gradients of alpha 0.9 and 0 for four kinds of reward: 12, 28, 22 and 0 "
        "degrees. Right: the difference in final reward: about 0 but for the gamble, where it is -0.08.",
    ),
}

SELF_TEST = [
    (
        "Your reward model gives scores from 0 to 1 and is unsure about long answers. What will alpha = 0.9 at "
        "beta_r = 0.3 do?",
        "It may prefer answers with widely scattered scores to better ones: where their certainty equivalent is the "
        "higher one. Lower alpha / beta_r, or score an answer several times and average.",
    ),
    (
        "Doubling the rewards does what to kappa, and to the policy?",
        "Only kappa times the reward counts: doubled rewards are a doubled kappa, and the policy takes more risk. To "
        "undo it, double beta_r as well.",
    ),
    (
        "With pass/fail rewards kappa cannot turn a prompt's gradient. What does it still do?",
        "It sets the prompt's weight: one solved once in 8 counts 4.7 times as much as one missed once in 8 at alpha "
        "0.9, and as much at alpha 0 (lesson 04's curriculum).",
    ),
]
