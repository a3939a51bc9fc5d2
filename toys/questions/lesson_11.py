"""The questions of lesson 11."""

from .asking import Question

QUESTIONS = {
    "clip_case": Question(
        "PPO's clip with epsilon = 0.2. A completion with A < 0 has become more likely than when it was sampled: its "
        "ratio is 1.5. What does the clip do with its gradient?",
        {
            "sets it to zero: 1.5 is outside 0.8 to 1.2": "No: it went the wrong way. The minimum keeps the worse of "
            "the two values, -1.5 against -1.2, and that one has a gradient.",
            "nothing: it is pushed down with full force": "Yes: the clip stops only a push that has gone far enough "
            "in its own direction. Here the push has achieved the opposite, and goes on.",
            "makes it smaller, by the factor 1.2 / 1.5": "No: a clip does not shrink a gradient. It passes it whole "
            "or not at all.",
        },
        answer="nothing: it is pushed down with full force",
        alt="The surrogate against the ratio. For A > 0 it rises and is flat beyond 1.2; for A < 0 it is flat below "
        "0.8 and falls beyond.",
    ),
    "rest": Question(
        "One batch of samples, 256 updates with APO, no clip, no ratio. The policy",
        {
            "runs away from the samples' policy without end": "That is GRPO without its clip. APO's loss has a "
            "minimum, where the anchored policy is the target, and the pushes end there.",
            "stops where the first ratio reaches 1.2": "That is a clip. APO knows no such number.",
            "comes to rest at a place known beforehand": "Yes: where log pi/pi_old = tau_anc A / beta_r, up to one "
            "number for the group. There q = p and every push is 0.",
        },
        answer="comes to rest at a place known beforehand",
        alt="Left: KL to the sampling policy against the number of updates, 1 to 256, on log scales; all styles "
        "agree up to 8 updates, then GRPO and APO with a clip level off near 0.008 nats, APO near 0.05, and GRPO "
        "without its clip reaches 2.6. Right: expected reward, 0.52, 0.56 and 0.92.",
    ),
    "trust": Question(
        "A small tau_anc is said to hold the policy close. One update a batch, SGD at a fixed learning rate: tau_anc "
        "goes from 2 down to 0.125. The policy's KL per batch",
        {
            "falls by a factor of about 16": "A trust region would let it fall. With one update the anchor is where "
            "the policy is: nothing is held yet, and 1/tau_anc only multiplies the gradient.",
            "does not change": "That is Adam, which divides the gradient's length out.",
            "rises by a factor of nearly 300": "Yes: the gradient is 16 times as long, and KL goes with its square: "
            "256, and 286 was measured.",
        },
        answer="rises by a factor of nearly 300",
        alt="KL per batch against tau_anc, for SGD and for Adam. With one update it falls with tau_anc under SGD and "
        "is flat under Adam; with 64 updates it rises with tau_anc under both, but for the last point under SGD. A "
        "third panel: after 1,024 updates on one batch the log ratio is tau A / beta_r to 1e-14.",
    ),
}

SELF_TEST = [
    (
        "A completion with A > 0 stands at ratio 0.7, epsilon is 0.2. Does PPO's clip stop its gradient?",
        "No. It should rise and has fallen; the minimum takes 0.7 A and not 0.8 A, and passes the gradient. The clip "
        "stops A > 0 above 1.2 and A < 0 below 0.8, nothing else.",
    ),
    (
        "Group of three, rewards 1, 0.5, 0, beta_r 0.3, tau_anc 0.5. By which factors has an inner loop of APO "
        "changed the three probabilities against each other when it is at rest?",
        "log pi/pi_old is tau_anc A / beta_r = 0.83, 0, -0.83 up to one number: the best has gained a factor of 2.3 "
        "on the middle one, and the middle one 2.3 on the worst. With tau_anc 1 it would be 5.3 each.",
    ),
    (
        "When does a smaller tau_anc hold a policy closer, and when does it make longer steps?",
        "Closer when there are so many updates on a batch that the inner loop nearly comes to rest; longer with one "
        "or few updates and SGD. With Adam and one update it does nothing.",
    ),
]
