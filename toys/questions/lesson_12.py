"""The questions of lesson 12; their numbers are held to the tables by tests/test_results.py."""

from .asking import Question

QUESTIONS = {
    "collapse": Question(
        "Under a very noisy reward (SNR 0.25) a fixed alpha of 0 ends on a wrong arm in 33 more of 100 runs than alpha 0.3. "
        "Now every update of both is rescaled to one and the same length. How much of the difference is left?",
        {
            "all of it": "No: then alpha itself would be the cause. The matched difference is -0.03 [-0.07, 0.00].",
            "about half": "No: nothing is left, -0.03 [-0.07, 0.00].",
            "nothing": "Yes: -0.03 [-0.07, 0.00]. It was single long steps, not the order of the divergence.",
        },
        answer="nothing",
    ),
    "guard": Question(
        "Six tasks, each schedule and each fixed alpha at its own best learning rate. On how many of the six does the paper's "
        "guard end above the best fixed alpha?",
        {
            "six": "No: on none. Without noise the guard comes to rest at alpha_max, and on the way it follows noise.",
            "three": "No: on none, not even where the good arms are replaced on the way (-0.042 [-0.067, -0.019]).",
            "one": "No: on none. The rule that does is the one that reads the reward's variance, and it is ours.",
            "none": "Yes: on none. Where the good arms are replaced it loses 0.042 to a fixed 0.9.",
        },
        answer="none",
    ),
    "lucky": Question(
        "Two arms pay 1 (sd 0.1), four lucky ones 0.7 (sd 0.8), ten about 0. Groups of 8, alpha 0.9, the best learning rate of "
        "seven: what does the policy earn at the end, mean over seeds?",
        (0.5, 1.0, 0.01),
        answer=0.80,
        tolerance=0.05,
        label="expected reward",
        explain={
            "low": "Higher: 0.796 [0.760, 0.838]. Some seeds end on a good arm, most on a lucky one.",
            "right": "Yes: 0.796 [0.760, 0.838], and 0.992 [0.980, 0.998] at alpha 0. The lucky arms draw it.",
            "high": "Lower: 0.796 [0.760, 0.838]. alpha 0.9 at beta_r 0.3 looks at an arm's best draws, and the lucky arms "
            "have those.",
        },
    ),
}

SELF_TEST = [
    (
        "A colleague's judge gives 0 to 10 points and is much less sure about long answers. What do you say to alpha 0.9?",
        "Its noise differs between answers, so a large alpha / beta_r prefers the noisy ones for their best scores. Take a "
        "smaller ratio, or cut the score into right and wrong.",
    ),
    (
        "Your run uses Adam and one update per batch of samples, and you want a tighter trust region. Do you lower tau_anc?",
        "No: there it does nothing, the KL per batch is the same to three digits from 0.125 to 2. Lower the learning rate; "
        "only with many updates on a batch (16 and more) does a smaller tau_anc hold the policy closer.",
    ),
    (
        "Experiment 2 saw no harm of an alpha_min below 0.3, and the paper saw a collapse. Which of the two is wrong?",
        "Perhaps neither: one is bandits with many seeds, the other one language model without. The bandit shows that the "
        "order is not needed as a cause, since the length of steps suffices.",
    ),
]
