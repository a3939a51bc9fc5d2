"""Records of objectives and schedules: what tools read, look-up by name and import path, and users' own entries."""

import functools
import math
import sys
import types

import pytest
import torch

from apo_edu import GroupBatch, GuardedAlpha, Signals, objectives, schedules
from apo_edu.objectives import OBJECTIVES, ObjectiveRecord, coefficients, find_objective
from apo_edu.schedules import SCHEDULES, find_schedule

# Options as the trainer spells them.
VALUES = {
    "alpha": 0.5, "alpha_max": 0.8, "alpha_min": 0.3, "steps": 7, "rho": 0.8, "gain_scale": 0.2, "noise_guard": 1.0,
    "ess_fraction": 0.4, "tau_anc": 0.5, "beta_r": 0.3, "logp_reduction": "sum", "advantage_scale": "group",
    "epsilon": 0.1, "epsilon_high": None, "max_completion_tokens": 9, "confidence_from": "tokens",
}  # fmt: skip
ANCHORED = {"tau_anc": 0.5, "beta_r": 0.3, "logp_reduction": "sum", "scale": "group"}


def on_policy_batch(seed=0, lengths=(3, 3, 3, 3)):
    g = torch.Generator().manual_seed(seed)
    logps = -torch.rand(2, 4, 3, generator=g, dtype=torch.float64)
    mask = (torch.arange(3) < torch.tensor(lengths)[:, None]).expand(2, 4, 3)
    return GroupBatch(logps, logps, mask, torch.rand(2, 4, generator=torch.Generator().manual_seed(9)).double())


@pytest.mark.parametrize(
    ("name", "keywords"),
    [
        ("apo", ANCHORED),
        ("adpo", ANCHORED),
        ("grpo", {"epsilon": 0.1}),
        ("dr_grpo", {"epsilon": 0.1, "max_tokens": 9, "scale": "group"}),
        ("dapo", {"epsilon_low": 0.1}),  # None leaves epsilon_high to dapo itself
        ("gspo", {"epsilon_low": 0.1}),
    ],
)
def test_options_reach_the_objectives_keywords(name, keywords):
    assert OBJECTIVES[name].bind(VALUES) == keywords
    assert OBJECTIVES[name].name == name


@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_a_record_says_is_what_its_function_does(name):
    record = OBJECTIVES[name]
    keywords = record.bind(VALUES | {"advantage_scale": "none", "logp_reduction": "mean"})
    drifted = on_policy_batch()
    drifted = GroupBatch(drifted.logps, drifted.logps - 0.4, drifted.mask, drifted.rewards)
    low, high = (coefficients(record.function, drifted, alpha=alpha, **keywords)[0] for alpha in (0.1, 0.9))
    assert torch.equal(low, high) is not record.reads_alpha
    clipped = coefficients(record.function, drifted, alpha=0.5, **keywords)[2]["clip_fraction"].item()
    assert (clipped > 0) is record.clips
    assert record.reads("off_policy") is not record.clips
    # The value of the loss at the first update says nothing of the policy: two policies, one value.
    lengths = (1, 2, 3, 3)
    first, second = (
        coefficients(record.function, on_policy_batch(seed, lengths), alpha=0.5, **keywords)[1].item()
        for seed in (0, 1)
    )
    assert first == pytest.approx(second, rel=1e-12, abs=1e-15)
    expected = {
        "the logarithm of the group size": math.log(4),
        "0, since the advantages of a group sum to 0": 0.0,
        "D_alpha(q || uniform)": None,
        "the advantages of a group sum to 0, but for their weights by length": None,
    }.get(record.first_loss)  # a phrase of a new objective's own is not checked
    if expected is not None:
        assert first == pytest.approx(expected, abs=1e-12)
    elif record.clips:
        assert abs(first) > 1e-3  # by length, it is not 0
    assert record.summary


def test_objectives_have_different_colors():
    assert len({record.color for record in OBJECTIVES.values()}) == len(OBJECTIVES)


@pytest.mark.parametrize(
    ("name", "keywords", "reads", "ignores"),
    [
        ("fixed", {"alpha": 0.5}, ["alpha"], ["alpha_max", "confidence_from", "tau_anc"]),
        ("linear", {"alpha_start": 0.8, "alpha_end": 0.3, "num_steps": 7}, ["steps", "alpha_min"], ["alpha", "rho"]),
        (
            "guarded",
            {"alpha_max": 0.8, "alpha_min": 0.3, "rho": 0.8, "gain_scale": 0.2, "noise_guard": 1.0},
            ["confidence_from", "alpha_max"],
            ["alpha", "ess_fraction", "beta_r"],
        ),
        (
            "ess",
            {"target_fraction": 0.4, "alpha_max": 0.8, "alpha_min": 0.3},
            ["tau_anc", "beta_r", "advantage_scale", "ess_fraction"],
            ["alpha", "confidence_from", "rho"],
        ),
    ],
)
def test_options_reach_the_schedules_constructor(name, keywords, reads, ignores):
    record = SCHEDULES[name]
    assert record.bind(VALUES) == keywords
    assert all(record.reads(option) for option in reads)
    assert not any(record.reads(option) for option in ignores)
    schedule = record.make(VALUES)
    assert type(schedule) is record.factory
    record.rule.format(**VALUES)
    record.note.format(**VALUES, last=0.4)
    low, high = 0.3, 0.8
    group = torch.tensor([[0.9, 0.1]], dtype=torch.float64).log()
    seen = set()
    for reward in (0.0, 0.5, 1.0):
        seen.add(schedule.update(Signals(reward, 0.0, 0.9, log_q=group, log_p=group.flip(-1))))
        assert low <= schedule.alpha <= high
        assert all(isinstance(value, float) for value in schedule.traces().values())
    if not record.moves:
        assert len(seen) == 1
    rests = record.make(VALUES)
    uniform = torch.full((1, 2), 0.5, dtype=torch.float64).log()
    at_rest = [rests.update(Signals(0.5, 0.0, 0.9, log_q=uniform, log_p=uniform)) for _ in range(9)]
    assert (set(at_rest) == {VALUES["alpha_max"]}) is record.rests_at_max


def test_only_the_guard_traces_its_gates():
    guard = GuardedAlpha()
    for reward in (0.0, 0.1):
        guard.update(Signals(reward, 0.0, 0.5))
    assert guard.traces() == {"confidence": 0.5, "improvement": pytest.approx(math.tanh(1.0))}
    assert [SCHEDULES[name].make(VALUES).traces() for name in ("fixed", "linear", "ess")] == [{}] * 3


@pytest.mark.parametrize(
    ("find", "name", "message"),
    [
        (find_objective, "grppo", r"objective is 'grppo'; expected one of apo, adpo, grpo, .* Did you mean 'grpo'\?"),
        (find_objective, "no_such_module:f", "no_such_module cannot be imported: .*PYTHONPATH"),
        (find_objective, "mine.louder", r"expected one of apo, .* Did you mean 'mine:louder'\?"),
        (find_objective, "rules/mine.py:f", r"'rules/mine.py:f'; expected module:name .* Try rules.mine:f, run from"),
        (find_schedule, "./mine.py:F", "Try mine:F, run from the folder"),
        (find_objective, "math:tua", r"math has no 'tua'; expected module:name of .* Did you mean 'tau'\?"),
        (find_objective, "math:pi", "objective is 'math:pi', a float; expected a function"),
        (find_schedule, "gaurded", r"schedule is 'gaurded'; expected one of guarded, fixed, .* Did you mean 'guarded'\?"),
        (find_schedule, "math:tau", "schedule is 'math:tau', a float; expected a class"),
        (find_schedule, "fractions:Fraction", "has no update, traces, state_dict, load_state_dict; expected a schedule"),
    ],
)  # fmt: skip
def test_an_unknown_name_lists_the_known_ones_and_a_tool_gets_a_neutral_record(find, name, message):
    with pytest.raises(ValueError, match=message):
        find(name)
    record = find(name, strict=False)
    assert record.name == name
    assert not record.found and record.reads("epsilon") and record.reads("rho")  # so that no difference is overlooked
    with pytest.raises(ValueError, match=message):
        record.target(on_policy_batch())


def test_names_records_and_functions_find_the_same():
    record = OBJECTIVES["dapo"]
    assert find_objective("dapo") is find_objective(record) is find_objective(objectives.dapo) is record
    assert find_schedule("ess") is find_schedule(SCHEDULES["ess"]) is find_schedule(schedules.EssAlpha)


def test_a_bound_objective_has_the_record_of_its_function_without_what_is_bound():
    record = find_objective(functools.partial(objectives.dr_grpo, max_tokens=4))
    assert record.clips and record.color == OBJECTIVES["dr_grpo"].color
    assert record.options == {"epsilon": "epsilon", "scale": "advantage_scale"}


@pytest.fixture
def own_module(monkeypatch):
    """A user's module: an objective without alpha, one that wraps apo, one with a record, and a schedule."""
    module = types.ModuleType("own_rules")
    source = """
import torch
from apo_edu import GuardedAlpha, objectives, schedules

def reinforce(batch, *, advantage_scale="none", strength):
    advantages = batch.rewards - batch.rewards.mean(-1, keepdim=True)
    return -strength * (advantages[..., None] * batch.logps).mean(), {}

def sharper(batch, *, alpha, **options):
    return objectives.apo(batch, alpha=alpha / 2, **options)

@objectives.describe(summary="louder grpo", clips=True, reads_alpha=False, color="#123456", options={"loud": "epsilon"})
def louder(batch, *, alpha=None, loud=0.2):
    return objectives.grpo(batch, epsilon=loud)

class Half(schedules.Schedule):
    def __init__(self, alpha_max=0.9, factor=0.5):
        self.alpha = factor * alpha_max
    def update(self, signals):
        return self.alpha
    def state_dict(self):
        return {"alpha": self.alpha}
    def load_state_dict(self, state):
        self.alpha = state["alpha"]

class Guard(GuardedAlpha):
    pass
"""
    exec(source, module.__dict__)
    monkeypatch.setitem(sys.modules, "own_rules", module)
    return module


def test_a_users_objective_needs_nothing_but_its_function(own_module):
    record = find_objective("own_rules:reinforce")
    assert record == ObjectiveRecord(
        name="own_rules:reinforce",
        function=own_module.reinforce,
        options={"advantage_scale": "advantage_scale", "strength": "strength"},
        reads_alpha=False,
    )
    with pytest.raises(ValueError, match="own_rules:reinforce needs a value for strength, which the option strength"):
        record.bind(VALUES)
    keywords = record.bind(VALUES | {"strength": 2.0})
    coef, _, _ = coefficients(record.function, on_policy_batch(), alpha=0.5, **keywords)  # alpha is not passed on
    assert coef.abs().max() > 0

    wrapped = find_objective("own_rules:sharper")
    assert wrapped.reads_alpha and wrapped.bind(VALUES) == ANCHORED
    batch = on_policy_batch()
    got = coefficients(wrapped.function, batch, alpha=0.8, **wrapped.bind(VALUES))[0]
    assert torch.equal(got, coefficients(objectives.apo, batch, alpha=0.4, **ANCHORED)[0])

    louder = find_objective("own_rules:louder")
    assert (louder.name, louder.color, louder.clips, louder.reads_alpha) == (
        "own_rules:louder", "#123456", True, False,
    )  # fmt: skip
    assert louder.bind(VALUES) == {"loud": 0.1}


def test_a_users_schedule_needs_nothing_but_its_class(own_module):
    record = find_schedule("own_rules:Half")
    assert record.options == {"alpha_max": "alpha_max", "factor": "factor"}
    schedule = record.make(VALUES)
    assert schedule.update(Signals(0.0)) == 0.4 and schedule.traces() == {}
    assert record.reads("confidence_from") and record.reads("tau_anc")  # not known, so it counts as read
    guard = find_schedule("own_rules:Guard")
    assert guard.name == "own_rules:Guard" and guard.factory is own_module.Guard and guard.rests_at_max
