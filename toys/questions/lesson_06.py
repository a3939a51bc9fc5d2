"""The questions of lesson 06."""

from .asking import Question

QUESTIONS = {
    "roads": Question(
        "Softmax over three arms, gradient descent on D_alpha to the end. For which alpha does the policy miss q?",
        {
            "alpha = 0": "No: with three free arms the policy can be q itself, and D_0 is 0 only there.",
            "alpha = 1": "No: the same holds for every alpha.",
            "for none": "Yes. A policy that can represent q reaches q for every alpha: alpha changes the road, not the end.",
            "for all": "No: every road ends at the star.",
        },
        answer="for none",
        alt="Paths on the three-arm simplex for five alphas from three starts, all ending at the target; arrows show "
        "the flow at 0.5.",
    ),
    "early_stop": Question(
        "Stopped after 200 steps and compared with alpha = 1, alpha = 0 will",
        {
            "earn more and keep fewer good arms": "Yes: 0.985 against 0.940, and 1.8 good arms against 2.8. But is that "
            "seeking? See "
            "the next question.",
            "earn less and keep fewer": "No: it earns more, left panel.",
            "earn more and keep more": "No: it keeps fewer, right panel.",
            "make no difference": "It does: samples are finite, and the run is stopped before the end.",
        },
        answer="earn more and keep fewer good arms",
        alt="Expected reward, entropy and good arms kept against alpha after 200 steps, medians and quartiles over 100 "
        "seeds: alpha = 0 "
        "has the highest reward, the lowest entropy and the fewest good arms.",
    ),
    "speed": Question(
        "Now stop each run when its expected reward first reaches 0.94, however long that takes. There alpha = 0, "
        "compared with 1, has kept",
        {
            "fewer good arms: it seeks modes": "No: 3.0 against 2.9 of 4, which cannot be told apart.",
            "about as many, in fewer steps": "Yes: 3.0 against 2.9 of 4, after 89 steps instead of 191. What looked "
            "like seeking was speed: "
            "after 200 steps alpha = 0 was simply further down the same road.",
            "about as many, in as many steps": "As many, yes. But it needs 89 steps, and alpha = 1 needs 191.",
        },
        answer="about as many, in fewer steps",
        alt="Left: good arms kept against the reward at which they are counted, for five alphas; the curves fall "
        "together from 4 to below 3, that of alpha = 1 a little sooner. Right: steps needed to reach a reward; alpha = 0 "
        "needs two thirds (at 0.6) to half (from 0.85) of what alpha = 1 needs.",
    ),
}

SELF_TEST = [
    (
        "Your tabular policy ends at q for alpha = 0 and alpha = 1 alike. Bug?",
        "No: D_alpha is 0 only at p = q, for every alpha, and a table can be q.",
    ),
    (
        "A paper shows that after 500 steps the entropy at alpha = 0 is lower than at 1, and concludes that it seeks "
        "modes. Your objection?",
        "Compare at equal reward, not at equal steps: a faster run has lower entropy too. Here the good arms kept are "
        "then the same.",
    ),
    (
        "A colleague shows one run in which alpha = 1 kept fewer good arms than alpha = 0. What do you answer?",
        "That happens in some seeds here too. Ask for at least 20 seeds with an interval.",
    ),
]
