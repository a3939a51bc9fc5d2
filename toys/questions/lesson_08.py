"""The questions of lesson 08."""

from .asking import Question

QUESTIONS = {
    "greedy": Question(
        "RL raised the sampled accuracy on held-out additions. The greedy accuracy (always the likeliest token)",
        {
            "rose as well": "Yes, from 0.60 to 0.94: part of the gain is new ability, not only confidence. Report both, "
            "always.",
            "stayed where it was": "Then the gain would be pure sharpening: the model sampling what it already preferred.",
            "fell": "No: both lines rise.",
        },
        answer="rose as well",
        alt="Sampled and greedy held-out accuracy before and after training: 0.37 to 0.75 and 0.60 to 0.94.",
    ),
    "at_the_anchor": Question(
        "On the first update of each batch, kl_old is exactly 0. So the gradient is",
        {
            "zero too": "No: its norm is 4.4 on average. At the anchor the gradient is REINFORCE with a reshaped advantage.",
            "not zero": "Yes. The policy equals its anchor, and the target differs from uniform: that difference pulls.",
        },
        answer="not zero",
    ),
    "beside_grpo": Question(
        "GRPO with the same seed, learning rate and number of steps, two updates a batch. Beside APO it ends with",
        {
            "less sampled accuracy": "No: it ends with more, 0.81 against 0.75.",
            "more sampled accuracy, as much greedy accuracy": "Yes: 0.81 against 0.75 sampled, 0.94 both greedy. GRPO "
            "is surer (lower entropy) "
            "of answers that both would give. One seed: a reason to look, no verdict.",
            "more of both": "Of sampled accuracy, yes; greedy they are the same, 0.94.",
        },
        answer="more sampled accuracy, as much greedy accuracy",
        alt="Training reward and token entropy over 150 steps for APO and GRPO on one seed: GRPO's reward is higher and "
        "its entropy lower all "
        "along. Right: held-out accuracy at the end, sampled 0.75 and 0.81, greedy 0.94 and 0.94, with standard errors.",
    ),
}

SELF_TEST = [
    (
        "Sampled pass@1 rose from 0.32 to 0.55 and greedy stayed at 0.55. What did RL do?",
        "It sharpened: the model now samples what it already preferred. Its best guess solves no more problems than before.",
    ),
    (
        "Why is the reward computed by a verifier in another process, with a time limit?",
        "A model's text can make a symbolic comparison run for ever; the limit turns 'for ever' into 'wrong', and the "
        "run goes on.",
    ),
    (
        "Token entropy fell by half and reward did not move. Name the signature and one remedy.",
        "Entropy collapse without reward gain: lower lr or take fewer updates per batch of samples; it is the length of "
        "the steps.",
    ),
]
