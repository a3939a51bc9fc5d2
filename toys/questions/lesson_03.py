"""The questions of lesson 03."""

from .asking import Question

QUESTIONS = {
    "middle": Question(
        "The completion in the middle earned exactly the mean: its advantage is 0. What does the first update do to "
        "it, at alpha = 1/2?",
        {
            "nothing: its advantage is 0": "That is what GRPO does, and APO at alpha = 0.",
            "it is pushed up": "No: its weight, -0.49, is below the mean weight, -0.24.",
            "it is pushed down": "Yes: by 1, where the best is pushed up by 5 and the worst down by 4. For alpha > 0 "
            "the best completion's weight lifts the mean of the weights above the middle one's.",
        },
        answer="it is pushed down",
        alt="Bars of the push on the best, middle and worst completion for GRPO and for alpha 0, 1/2 and 1: the middle "
        "bar is 0 for GRPO and alpha 0, and negative, more so with alpha, for the others.",
    ),
    "share": Question(
        "A completion was already very likely under the old policy. At the anchor, its share of p_theta is",
        {
            "larger than the others'": "No: u compares the policy with itself, so what it thought before cancels.",
            "equal to the others'": "Yes: u = 0 for everybody. The anchored policy speaks of change, not of likelihood.",
            "smaller than the others'": "No: there is no penalty for having been likely.",
        },
        answer="equal to the others'",
    ),
    "halved_tau": Question(
        "You halve tau_anc. The curvature of the loss D_alpha(q || p_theta) at the anchor, in the log-probabilities,",
        {
            "doubles": "The gradient does. A second derivative takes 1 / tau_anc twice.",
            "becomes four times as large, at every alpha": "Yes: 1 / tau_anc^2. How large it is depends on alpha; how "
            "it scales does not.",
            "becomes four times as large, but only at alpha = 1": "No: p_theta is a function of the log-probabilities "
            "over tau_anc at every alpha, and each derivative brings one factor 1 / tau_anc.",
        },
        answer="becomes four times as large, at every alpha",
        alt="Log-log plot of the largest and smallest curvature of the loss at the anchor against tau_anc, for three "
        "alphas: parallel lines of slope -2 at different heights.",
    ),
    "smaller_tau": Question(
        "A bandit, SGD, one update per batch of samples. You make tau_anc 16 times smaller, from 2 to 0.125. How far "
        "does the policy move per batch, as KL(new || old)?",
        {
            "less far: a tighter anchor": "That is what a trust region would do. With one update the bowl has no time "
            "to hold anything: the only thing that tau_anc changes is the gradient, which grows with 1 / tau_anc.",
            "as far as before": "That is what happens with Adam, which divides the length of the gradient out.",
            "farther": "Yes: the gradient is 16 times as long, and the KL of a small step goes with its square.",
        },
        answer="farther",
    ),
    "any_alpha": Question(
        "The target q is fixed, and gradient descent on KL(q || p), alpha = 1, runs to the end. The other KL, KL(p || "
        "q),",
        {
            "falls at every step as well": "Often, but not here: look at the first eleven steps.",
            "may rise on the way": "Yes: from this start it goes from 1.88 to above 2.2 before it falls. V, on the "
            "right, falls all the way.",
            "rises for ever": "No: both KLs are 0 at q, and the descent arrives there.",
        },
        answer="may rise on the way",
        alt="Left: KL(p || q) against the step; on the way down KL(q || p) it rises at first, then falls. Right: V "
        "falls at every step, for alpha 0, for alpha 1, and for an alpha that switches every five steps.",
    ),
    "fixed_anchor": Question(
        "With a fixed anchor, in the long run the expected reward",
        {
            "rises to 1 like the others, only later": "No: with u far from 0 the anchored policy already equals the "
            "target, and the pull ends.",
            "stalls below the others": "Yes: the target is a bounded distance from the anchor. Once p_theta = q there "
            "is nothing left to gain.",
            "collapses": "No: a fixed anchor is the safest of all, it just does not go far.",
        },
        answer="stalls below the others",
        alt="Expected reward and KL to the anchor against the step for three anchor strategies, median and quartiles "
        "over 20 seeds; the fixed one stalls.",
    ),
}

SELF_TEST = [
    (
        "Three completions have rewards 1, 1/2 and 0, and q = (16, 4, 1)/21. What is p_theta at the anchor, and what "
        "is the push at alpha = 1?",
        "p_theta = (1, 1, 1)/3. At alpha = 1 the push is q - p over tau_anc, and q - p = (9, -3, -6)/21: up by 3, down "
        "by 1, down by 2.",
    ),
    (
        "You halve tau_anc. What happens to the gradient at the anchor and to the curvature?",
        "The gradient in the log-probabilities doubles, the curvature quadruples: the minimum is half as far away. "
        "Whether a policy then moves less depends on the optimiser and on the number of updates per batch.",
    ),
    (
        "For which pairs (q, p) do all alpha-divergences have the same curvature, and for which do they not?",
        "Where q = p: there each has the Fisher information of p. Away from it they differ: at the anchor the loss has "
        "0.27 and 2.40 at alpha = 0, and 1.33 twice at alpha = 1, in the worked example.",
    ),
]
