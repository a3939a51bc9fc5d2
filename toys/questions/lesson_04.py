"""The questions of lesson 04."""

from .asking import Question

QUESTIONS = {
    "sft": Question(
        "You draw many completions from q and fine-tune the policy p on them with cross-entropy (SFT). Which "
        "divergence falls?",
        {
            "forward KL(q || p), alpha = 1": "Yes: the cross-entropy -E_q[log p] is KL(q || p) plus the entropy of q, "
            "which p does not touch.",
            "reverse KL(p || q), alpha = 0": "That is what RL with a KL penalty makes small; it averages over the "
            "policy's own samples.",
            "neither: a cross-entropy is no divergence": "It is one up to a constant: it lacks only the entropy of q.",
        },
        answer="forward KL(q || p), alpha = 1",
    ),
    "small_beta": Question(
        "With alpha fixed at 0.9 (covering), what does a small beta_r do to the entropy of the arms?",
        {
            "nothing: alpha = 0.9 protects it": "No. with one update per batch alpha and beta_r act through "
            "alpha/beta_r (lesson 10): a small beta_r makes even 0.9 chase the luckiest samples.",
            "it falls early and far": "Yes: the smaller beta_r, the more q insists on the luckiest sample of each "
            "group.",
            "it rises": "No: a small beta_r sharpens the target.",
        },
        answer="it falls early and far",
        alt="Entropy and expected reward against the step for four values of beta_r, median and quartiles over 20 "
        "seeds; entropy falls first for the smallest, and in the end for all four.",
    ),
    "constant_baseline": Question(
        "REINFORCE on an easy and a hard prompt. In place of each group's mean you subtract the mean of everything, "
        "1/2, from every reward. What does that cost?",
        {
            "a bias: the easy prompt's completions are all pushed up": "No: five of its six advantages are +0.5 and "
            "one is -0.5. And a constant b adds -b E[grad log pi] to the mean of the gradient, which is 0.",
            "variance, and no bias": "Yes: any constant leaves the mean of the gradient as it is, since E[grad log pi] "
            "= 0. The constant that is far from a prompt's own mean is the noisy one.",
            "nothing": "Not nothing: the mean of the gradient stays, its variance does not (the table below).",
        },
        answer="variance, and no bias",
        alt="Advantages of six completions of an easy and a hard prompt, within the group and against the mean of all: "
        "five times +0.17 and once -0.83 against five times +0.5 and once -0.5 for the easy one, and the mirror image "
        "for the hard one.",
    ),
}

SELF_TEST = [
    (
        "RL with a KL penalty and SFT on samples of q have the same q in mind. Which alpha is which?",
        "E_p[r] - beta KL(p || pi_ref) = beta log Z - beta KL(p || q) with q = pi_ref e^(r/beta)/Z: reverse KL, alpha "
        "= 0. SFT minimises -E_q[log p]: forward KL, alpha = 1.",
    ),
    (
        "Why compare rewards within a group rather than with the mean of all prompts? Answer for REINFORCE and for "
        "APO.",
        "For REINFORCE to save variance: the group's mean is near the prompt's own success rate. A constant costs no "
        "bias. For APO the question is empty: softmax(A/beta_r) does not change when a constant is added.",
    ),
    (
        "All six completions of a prompt are right. What is its gradient, and what does that say about run time?",
        "Exactly zero: its advantages are 0 and q is uniform, as p is at the anchor. Such groups need not go through "
        "the backward pass of the first update.",
    ),
]
