"""What opens the guard, and what it saves."""

from toys import guards
from toys.bandits import Loop


def test_noise_alone_opens_the_naive_guard_and_not_the_aware_one():
    study = guards.guard_noise_study([1.0], seeds=6, loop=Loop(num_steps=60))
    gates = {name: float(values.mean()) for name, values in study.gate.items()}
    assert gates["naive"] > 0.2
    assert gates["noise-aware (2 se)"] < 0.06


def test_confidence_alone_holds_a_policy_at_the_wrong_arm_and_the_guard_does_not():
    histories = guards.confident_but_wrong(seeds=20)
    stuck = {label: (h.expected_reward[-1] < 0.6).double().mean().item() for label, h in histories.items()}
    assert stuck["fixed 0.9"] < stuck["confidence only"]
    assert stuck["guarded"] < 0.5 < stuck["confidence only"]
    assert stuck["fixed 0.35"] > 0.5
