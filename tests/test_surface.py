"""The core's public names and signatures, which other programs call, and that it stands on torch alone."""

import inspect
import subprocess
import sys

import pytest

import apo_edu
from apo_edu import objectives, schedules

NAMES = [
    "alpha_divergence",
    "forward_kl",
    "reverse_kl",
    "alpha_divergence_grad",
    "box_cox",
    "tilted_log_weights",
    "anchored_logits",
    "anchored_log_policy",
    "group_advantages",
    "boltzmann_log_target",
    "normalized_entropy",
    "effective_sample_size",
    "answer_entropy",
    "candidate_entropy",
    "group_signals",
    "GroupBatch",
    "Signals",
    "FixedAlpha",
    "LinearAlpha",
    "GuardedAlpha",
    "EssAlpha",
    "FailureMonitor",
    "Finding",
    "Limits",
    "LIMITS",
    "objectives",
    "schedules",
    "palette",
    "statistics",
]


def test_all_is_what_is_documented_and_exists():
    assert sorted(apo_edu.__all__) == sorted(NAMES)
    assert all(hasattr(apo_edu, name) for name in NAMES)


# Arguments in order, with defaults where there are some; after * only by keyword.
SIGNATURES = {
    apo_edu.alpha_divergence: "(log_q, log_p, alpha)",
    apo_edu.forward_kl: "(log_q, log_p)",
    apo_edu.reverse_kl: "(log_q, log_p)",
    apo_edu.alpha_divergence_grad: "(log_q, log_p, alpha)",
    apo_edu.anchored_logits: "(logps, ref_logps, tau_anc)",
    apo_edu.anchored_log_policy: "(logps, ref_logps, tau_anc)",
    apo_edu.group_advantages: "(rewards, baseline='mean', scale='group', *, valid=None)",
    apo_edu.boltzmann_log_target: "(advantages, beta_r)",
    apo_edu.normalized_entropy: "(log_p)",
    apo_edu.effective_sample_size: "(log_weights)",
    apo_edu.FixedAlpha: "(alpha=0.6)",
    apo_edu.LinearAlpha: "(alpha_start=0.9, alpha_end=0.35, *, num_steps)",
    apo_edu.GuardedAlpha: "(alpha_max=0.9, alpha_min=0.35, rho=0.9, gain_scale=0.1, noise_guard=0.0)",
    apo_edu.EssAlpha: "(target_fraction=0.5, alpha_max=0.9, alpha_min=0.35)",
    apo_edu.Signals: "(reward, reward_se=0.0, confidence=0.0, log_q=None, log_p=None)",
    apo_edu.GroupBatch: "(logps, old_logps, mask, rewards, ref_logps=None, valid=None)",
    objectives.apo: "(batch, *, alpha, tau_anc, beta_r, logp_reduction='mean', scale='none')",
    objectives.adpo: "(batch, *, alpha=None, tau_anc, beta_r, logp_reduction='mean', scale='none')",
    objectives.grpo: "(batch, *, alpha=None, epsilon=0.2)",
    objectives.dr_grpo: "(batch, *, alpha=None, epsilon=0.2, max_tokens, scale='none')",
    objectives.dapo: "(batch, *, alpha=None, epsilon_low=0.2, epsilon_high=0.28)",
    objectives.gspo: "(batch, *, alpha=None, epsilon_low=0.0003, epsilon_high=0.0004)",
    objectives.coefficients: "(objective, batch, *, off_policy='none', off_policy_epsilon=0.2, **kwargs)",
    objectives.find_objective: "(objective, *, strict=True)",
    schedules.find_schedule: "(schedule, *, strict=True)",
}


@pytest.mark.parametrize(("call", "want"), SIGNATURES.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_signatures_are_the_contracts(call, want):
    signature = inspect.signature(call)
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    assert str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty)) == want


@pytest.mark.parametrize("name", ["fixed", "linear", "guarded", "ess"])
def test_schedules_keep_the_contract(name):
    schedule = schedules.SCHEDULES[name].make({"steps": 3})
    for method, arguments in (("update", "(signals)"), ("traces", "()"), ("state_dict", "()")):
        signature = inspect.signature(getattr(schedule, method))
        assert "(" + ", ".join(signature.parameters) + ")" == arguments
    state = schedule.state_dict()
    schedule.load_state_dict(state)
    assert schedule.state_dict() == state and isinstance(schedule.alpha, float)


def test_the_core_loads_nothing_but_torch_at_any_depth():
    script = """
import pkgutil, sys, torch
before = set(sys.modules)
import apo_edu
for module in pkgutil.walk_packages(apo_edu.__path__, "apo_edu."):
    __import__(module.name)
new = {name.split(".")[0] for name in set(sys.modules) - before}
print(*sorted(new - {"apo_edu", "torch"} - set(sys.stdlib_module_names)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == []
