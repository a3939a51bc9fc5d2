"""The questions of lesson 09: which fault each run has; a wrong guess is told what it would show."""

from .. import bugs
from .asking import Question

QUESTIONS = {
    f"run_{letter.lower()}": Question(
        f"What is wrong with run {letter}?", bugs.explained(fault), answer=bugs.BUGS[fault].what
    )
    for letter, fault in bugs.planted().items()
} | {
    "run_f": Question(
        "What is wrong with run F?",
        {
            "the verifier is shown the answer of another prompt": "No. Its reward would not rise with the healthy run's.",
            "completions are scored at another temperature than they are sampled at": "No. KL to the sampler would not "
            "be exactly 0 on the "
            "first update of each batch; it is, in 75 of 150 steps.",
            "the length limit is too short": "Yes. Three completions in five are cut at the fifth token, and the mean "
            "length is pinned to 5. "
            "Reward and accuracy hide it: the box just closes before the cut. One digit more, or `--truncated mask`, "
            "and it would not.",
            "the learning rate is ten times too large": "No. KL to the sampler and entropy would leave the healthy "
            "run's; KL follows it closely, and entropy lies only 0.02 above.",
            "every group gets the same rewards": "No. Groups with signal would be 0; they are as many as in the "
            "healthy run.",
        },
        answer="the length limit is too short",
    )
}

SELF_TEST = [
    (
        "Reward rises, then stalls, and KL to the anchor stays large. First suspect?",
        "The anchor: it is not refreshed, so the policy is held where it began.",
    ),
    (
        "Two runs have the same seed, and their gradient norms differ at the very first step. What can be told apart "
        "there?",
        "Policy, samples, rewards and alpha are the same then, so only the objective or a temperature in it can "
        "differ.",
    ),
    (
        "Which single plot separates a wrong sign from everything else in this lab?",
        "Expected reward: only a wrong sign drives it *below* where the uniform policy started.",
    ),
]
