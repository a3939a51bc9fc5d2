"""What opens the guard, and what it saves."""

from pathlib import Path

import pytest

from apo_edu import GuardedAlpha
from toys import guards
from toys.bandits import Loop, equal_arms, run
from toys.experiments.table import Table
from toys.questions.lesson_05 import QUESTIONS

RESULTS = Path(__file__).parents[1] / "notebooks" / "results"


def test_noise_alone_opens_the_naive_guard_and_not_the_aware_one():
    study = guards.guard_noise_study([1.0], seeds=6, loop=Loop(num_steps=60))
    gates = {name: float(values.mean()) for name, values in study.gate.items()}
    assert gates["naive"] > 0.2
    assert gates["noise-aware (2 se)"] < 0.06


@pytest.fixture(scope="module")
def from_a_wrong_start():
    return guards.confident_but_wrong(seeds=20)


def test_confidence_alone_holds_a_policy_at_the_wrong_arm_and_the_guard_does_not(from_a_wrong_start):
    stuck = {label: (h.expected_reward[-1] < 0.6).double().mean().item() for label, h in from_a_wrong_start.items()}
    assert stuck["fixed 0.9"] < stuck["confidence only"]
    assert stuck["guarded"] < 0.5 < stuck["confidence only"]
    assert stuck["fixed 0.35"] > 0.5


def test_the_guard_leaves_a_wrong_arm_as_a_fixed_alpha_max_does(from_a_wrong_start):
    """What lesson 05 asks and says: the same shares, since the guard hardly moves."""
    histories = from_a_wrong_start
    stuck = {label: guards.stuck(h) for label, h in histories.items()}
    assert stuck["guarded"] == stuck["fixed 0.9"] == pytest.approx(0.1)
    assert stuck["confidence only"] == pytest.approx(0.9) and stuck["fixed 0.35"] == 1.0
    assert f"{histories['guarded'].alpha.mean():.2f}" == "0.89"
    assert f"{histories['confidence only'].alpha.mean():.2f}" == "0.45"
    said = QUESTIONS["wrong_arm"].choices[QUESTIONS["wrong_arm"].answer]
    assert all(number in said for number in ("0.89", "0.45", "18 and all 20 of 20"))


def test_from_09_to_035_it_is_the_length_of_the_step():
    share = {key: guards.stuck(h) for key, h in guards.at_equal_steps().items()}
    assert share[0.9, False] == share[0.9, True]  # rescaled to its own length: nothing changes
    assert share[0.35, False] == share[0.0, False] == share[-1.0, False] == 1.0
    assert share[0.35, True] <= 0.2 < share[0.0, True] < 0.5 < 0.9 < share[-1.0, True]


def test_only_alpha_minus_one_collapses():
    broken = guards.break_the_guard()
    entropy = {label: float(h.entropy[-1].median()) for label, h in broken.items()}
    assert entropy["no gate, alpha_min -1"] < 0.05 < 0.1 < min(v for k, v in entropy.items() if "-1" not in k)
    assert entropy["gain scale 0.001"] > entropy["guarded"]
    assert guards.stuck(broken["guarded"]) < guards.stuck(broken["gain scale 0.001"]) < 0.5


def test_which_readings_of_confidence_grow_with_certainty():
    ends = {}
    for source in ("candidates", "tokens", "answers", "anchored", "target"):
        loop = Loop(schedule=GuardedAlpha, confidence_from=source, lr=0.2, num_steps=150)
        history = run(equal_arms(noise=0.1), loop, snapshots=2)
        ends[source] = history.confidence.median(1).values[[0, 40, 149]].tolist()
        assert history.entropy[-1].median() < 0.2
    assert ends["anchored"] == [0.0, 0.0, 0.0]
    for source in ("tokens", "answers"):
        assert ends[source][0] < ends[source][1] < ends[source][2] > 0.75
    assert ends["candidates"][0] < 0.01 and ends["candidates"][2] < 0.06 < 0.1 < ends["candidates"][1] < 0.13
    assert 0.3 < ends["target"][0] > ends["target"][1] > ends["target"][2] < 0.05


def test_the_guard_beats_no_fixed_alpha_and_where_the_cap_does():
    table = Table.read(RESULTS / "schedules.csv")
    guard = table.where(rule="guard", metric="minus best fixed")
    assert len(guard) == 6 and not [row for row in guard if row.low > 0]
    assert len([row for row in guard if row.high < 0]) == 4
    assert QUESTIONS["does_it_pay"].answer == 0 and "below on four" in QUESTIONS["does_it_pay"].explain["right"]
    cap = table.where(rule="variance cap (ours)", metric="minus best fixed")
    assert {row.part for row in cap if row.low > 0} == {"exact, then a noisy judge", "noise (SNR 0.25)"}
    assert not [row for row in cap if row.high < -1e-6]
    for rule, rest in (("guard", "0.82"), ("guard, 2 standard errors", "0.89")):
        assert f"{table.one(part='does alpha return', rule=rule, x=250).mean:.2f}" == rest
    assert all(row.low <= 0 <= row.high for row in table.where(rule="guard", metric="minus yoked"))
