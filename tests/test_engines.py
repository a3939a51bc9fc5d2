"""APO inside other engines: the gradient that reaches their weights is that of our objective."""

import importlib
import json
import math
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback

from apo_edu import GroupBatch, GuardedAlpha, LinearAlpha, objectives
from full.logprobs.tokens import token_logps
from full.models.tiny import make_tokenizer
from full.peers import group_reshaped_advantages
from full.peers.verl_apo import compute_apo_outcome_advantage
from tests.helpers import small_model

ROOT = Path(__file__).parents[1]
ALPHAS = [-0.5, 0.0, 0.35, 0.6, 1.0]
TAU, BETA = 0.7, 0.2


# The advantages


def test_a_group_of_two_by_hand():
    # rewards 1, 0 and beta_r = 1 / ln 9: q = (3/4, 1/4). alpha = 1/2: (sqrt(3/2) - sqrt(1/2)) / 2 is each one's distance
    # from their mean, and 1 / (alpha tau_anc) = 4 for tau_anc 1/2.
    rewards = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    got = group_reshaped_advantages(rewards, alpha=0.5, tau_anc=0.5, beta_r=1 / math.log(3.0))
    want = 4 * (math.sqrt(1.5) - math.sqrt(0.5)) / 2
    assert got.tolist() == [pytest.approx([want, -want], rel=1e-12)]


def test_alpha_zero_is_the_mean_only_advantage():
    rewards = torch.tensor([[0.0, 0.5, 1.0, 0.1], [1.0, 1.0, 0.0, 0.0]], dtype=torch.float64)
    got = group_reshaped_advantages(rewards, alpha=0.0, tau_anc=TAU, beta_r=BETA)
    torch.testing.assert_close(got, (rewards - rewards.mean(-1, keepdim=True)) / (BETA * TAU))


def test_equal_rewards_give_exactly_nothing():
    assert not group_reshaped_advantages(torch.full((1, 6), 0.1), alpha=0.35, tau_anc=0.5, beta_r=0.3).any()


@pytest.mark.parametrize(("reduction", "scale"), [("mean", "none"), ("sum", "group")])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_reinforce_with_them_has_the_gradient_of_apo(alpha, reduction, scale):
    batch = some_groups()
    got = group_reshaped_advantages(batch.rewards, alpha=alpha, tau_anc=TAU, beta_r=BETA, scale=scale)
    coef = apo_coefficients(batch, alpha, logp_reduction=reduction, scale=scale)
    per_token = -got / got.numel() / (batch.mask.sum(-1) if reduction == "mean" else 1)
    torch.testing.assert_close(per_token[..., None] * batch.mask, coef, rtol=1e-10, atol=1e-14)
    assert coef.abs().max() > 1e-3


def test_one_alpha_for_each_prompt():
    rewards = some_groups().rewards
    options = {"tau_anc": TAU, "beta_r": BETA}
    both = group_reshaped_advantages(rewards, alpha=torch.tensor([0.2, 0.5, 0.9]), **options)
    for row, alpha in enumerate((0.2, 0.5, 0.9)):
        alone = group_reshaped_advantages(rewards[row : row + 1], alpha=alpha, **options)
        torch.testing.assert_close(both[row : row + 1], alone, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("rewards", "options", "message"),
    [
        (torch.zeros(6), {}, r"rewards has shape \(6,\); expected \[prompts, group\].*view"),
        (torch.zeros(3, 1), {}, "group of size 1.*Sample more completions"),
        (torch.tensor([[0.0, math.inf]]), {}, r"rewards holds inf at index \[0, 1\]"),
        (torch.zeros(1, 2), {"tau_anc": 0.0}, "tau_anc is 0.0; expected"),
        (torch.zeros(1, 2), {"beta_r": -1.0}, "beta_r is -1.0; expected"),
    ],
)
def test_bad_input_is_refused(rewards, options, message):
    with pytest.raises(ValueError, match=message):
        group_reshaped_advantages(rewards, **{"alpha": 0.5, "tau_anc": 0.5, "beta_r": 0.3} | options)


def some_groups() -> GroupBatch:
    """Three groups of four on policy, completions of one to six tokens, graded rewards."""
    g = torch.Generator().manual_seed(0)
    logps = -3 * torch.rand((3, 4, 6), generator=g, dtype=torch.float64)
    lengths = torch.randint(1, 7, (3, 4), generator=g)
    rewards = torch.rand((3, 4), generator=g, dtype=torch.float64)
    return GroupBatch(logps, logps, (torch.arange(6) < lengths[..., None]).double(), rewards)


def apo_coefficients(batch: GroupBatch, alpha: float, **options) -> torch.Tensor:
    return objectives.coefficients(objectives.apo, batch, alpha=alpha, tau_anc=TAU, beta_r=BETA, **options)[0]


# verl: its estimator is called as verl 0.9 calls it, its aggregations are written out


def verl_rows(batch: GroupBatch) -> tuple[dict, torch.Tensor]:
    """A batch as verl hands it over: rows in any order, the reward on the last token, one uid per prompt."""
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    mask = batch.mask.flatten(0, 1)
    last = (mask.sum(-1, keepdim=True) - 1).long()
    rewards = torch.zeros_like(mask).scatter(1, last, batch.rewards.view(-1, 1))
    return {
        "token_level_rewards": rewards[order],
        "response_mask": mask[order],
        "index": [f"prompt-{row // 4}" for row in order.tolist()],
    }, order


AGGREGATIONS = {  # of -ratio A and the mask, as verl names them; and APO's reduction
    "seq-mean-token-mean": ("mean", lambda loss, mask: ((loss * mask).sum(-1) / mask.sum(-1)).mean()),
    "seq-mean-token-sum": ("sum", lambda loss, mask: (loss * mask).sum(-1).mean()),
    "token-mean": ("sum", lambda loss, mask: (loss * mask).sum() / mask.sum()),
}


@pytest.mark.parametrize("mode", AGGREGATIONS)
@pytest.mark.parametrize("alpha", ALPHAS)
def test_verl_loss_has_the_gradient_of_apo(mode, alpha):
    reduction, aggregate = AGGREGATIONS[mode]
    batch = some_groups()
    rows, order = verl_rows(batch)
    config = {"apo": {"alpha": alpha, "tau_anc": TAU, "beta_r": BETA}, "norm_adv_by_std_in_grpo": True}
    advantages, returns = compute_apo_outcome_advantage(**rows, config=config)
    assert advantages is returns and advantages.shape == (12, 6)
    logps = batch.logps.clone().requires_grad_()
    ratio = (logps - batch.old_logps).flatten(0, 1)[order].exp()
    (got,) = torch.autograd.grad(aggregate(-ratio * advantages, rows["response_mask"]), logps)
    want = apo_coefficients(batch, alpha, logp_reduction=reduction)
    if mode == "token-mean":
        want = want / batch.mask.sum(-1).mean()  # the factor that the documentation names
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-14)


def test_verl_groups_of_unequal_size():
    # Prompt 0 lost a response and prompt 1 all but one: compared with each other only, and still the mean over prompts.
    batch = some_groups()
    rows, order = verl_rows(batch)
    kept = [i for i, row in enumerate(order.tolist()) if row not in (1, 4, 5, 6)]
    rows = {name: [v[i] for i in kept] if name == "index" else v[kept] for name, v in rows.items()}
    advantages, _ = compute_apo_outcome_advantage(
        **rows, config={"apo": {"alpha": 0.6, "tau_anc": TAU, "beta_r": BETA}}
    )
    got = dict(zip(order[kept].tolist(), (advantages.sum(-1) / rows["response_mask"].sum(-1)).tolist(), strict=True))
    assert got[7] == 0.0
    for members in ([0, 2, 3], [8, 9, 10, 11]):
        logps, mask, rewards = (getattr(batch, n).flatten(0, 1)[None, members] for n in ("logps", "mask", "rewards"))
        coef = apo_coefficients(GroupBatch(logps, logps, mask, rewards), 0.6, logp_reduction="sum")
        want = (coef.sum(-1) / mask.sum(-1))[0] / 3  # a mean over 3 prompts
        assert [-got[row] / 8 for row in members] == pytest.approx(want.tolist(), rel=1e-10)  # verl's mean over 8 rows


def test_verl_defaults_and_refusals():
    rows, _ = verl_rows(some_groups())
    given = {"apo": {"alpha": 0.6, "tau_anc": 0.5, "beta_r": 0.3, "scale": "none"}}
    # An older verl also passes these two; they are GRPO's.
    plain, _ = compute_apo_outcome_advantage(**rows, epsilon=1e-6, norm_adv_by_std_in_grpo=True)
    torch.testing.assert_close(plain, compute_apo_outcome_advantage(**rows, config=given)[0], rtol=0, atol=0)
    with pytest.raises(ValueError, match="algorithm.apo has tau; expected alpha, tau_anc, beta_r, scale"):
        compute_apo_outcome_advantage(**rows, config={"apo": {"tau": 0.5}})
    with pytest.raises(ValueError, match="index is None; expected one uid per response"):
        compute_apo_outcome_advantage(**rows | {"index": None})
    with pytest.raises(ValueError, match="group of size 1"):
        compute_apo_outcome_advantage(**rows | {"index": list(range(12))})


FAKE_VERL = {
    "verl/__init__.py": """
        import importlib, os
        for name in filter(None, os.getenv("VERL_USE_EXTERNAL_MODULES", "").split(",")):
            importlib.import_module(name)  # as verl does, half imported itself
        """,
    "verl/trainer/__init__.py": "",
    "verl/trainer/ppo/__init__.py": "",
    "verl/trainer/ppo/core_algos.py": """
        ADV_ESTIMATOR_REGISTRY = {}
        def register_adv_est(name):
            def decorator(function):
                assert ADV_ESTIMATOR_REGISTRY.setdefault(name, function) is function
                return function
            return decorator
        """,
}


def test_verl_finds_the_estimator_by_its_environment_variable(tmp_path, monkeypatch):
    for name, text in FAKE_VERL.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("VERL_USE_EXTERNAL_MODULES", "full.peers.verl_apo")
    monkeypatch.delitem(sys.modules, "full.peers.verl_apo")
    try:
        importlib.import_module("verl")
        registry = sys.modules["verl.trainer.ppo.core_algos"].ADV_ESTIMATOR_REGISTRY
        assert registry == {"apo": sys.modules["full.peers.verl_apo"].compute_apo_outcome_advantage}
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "verl"]:
            del sys.modules[name]


# TRL: its public train(), on completions and rewards that depend on nothing but the step and the row

PROMPTS = [f"Compute {n} + {n + 1}." for n in range(12)]
TOKENIZER = make_tokenizer()


def completion(step: int, row: int) -> list[int]:
    """One to six tokens, some ending with the end-of-sequence token."""
    g = torch.Generator().manual_seed(1000 * step + row)
    ids = torch.randint(3, len(TOKENIZER), (int(torch.randint(1, 7, (), generator=g)),), generator=g).tolist()
    return [*ids[:-1], TOKENIZER.eos_token_id] if row % 3 else ids


def reward(ids: list[int], step: int, row: int) -> float | None:
    """Graded, rising from step to step; from step 3 on, row 1 cannot be scored."""
    return None if step >= 3 and row == 1 else (sum(ids) % 5) / 4 + 0.3 * step


def rollout(prompts: list[str], trainer) -> dict:
    first = trainer.accelerator.process_index * len(prompts)
    step = trainer.state.global_step
    return {
        "prompt_ids": [TOKENIZER(prompt)["input_ids"] for prompt in prompts],
        "completion_ids": [completion(step, first + i) for i in range(len(prompts))],
        "logprobs": None,
        "row": list(range(first, first + len(prompts))),  # reaches the reward function
    }


def rewards_of_rows(completion_ids, trainer_state, row, **kwargs) -> list:
    return [reward(ids, trainer_state.global_step, i) for ids, i in zip(completion_ids, row, strict=True)]


class Gradients(TrainerCallback):
    """Keep what each optimiser step was about to use."""

    def __init__(self):
        self.steps = []

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        self.steps.append([p.grad.clone() for p in model.parameters()])


OFFLINE = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": "none", "disable_tqdm": True}


def make_trainer(folder, *, model=None, schedule=None, callbacks=(), **changes):
    """A trainer on the fixed completions: two groups of four in two micro-batches, of weights that stay as they are."""
    from datasets import Dataset

    from full.peers.trl_apo import APOConfig, APOTrainer

    options = {
        "num_generations": 4,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "max_completion_length": 6,
        "max_steps": 5,
        "learning_rate": 0.0,
        "max_grad_norm": 0.0,
        "shuffle_dataset": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "tau_anc": TAU,
        "beta_r": BETA,
    }
    data = Dataset.from_dict({"prompt": PROMPTS})
    return APOTrainer(
        small_model() if model is None else model,
        reward_funcs=rewards_of_rows,
        args=APOConfig(output_dir=str(folder), **OFFLINE | options | changes),
        train_dataset=data,
        eval_dataset=data,
        processing_class=TOKENIZER,
        rollout_func=rollout,
        schedule=schedule,
        callbacks=list(callbacks),
    )


def our_batch(step: int, *, groups: int = 2, size: int = 4):
    """The completions of one step under our own forward pass: the model, its log-probabilities with a graph, the batch."""
    model = small_model()
    rows = range(groups * size)
    prompts = [TOKENIZER(PROMPTS[step * groups + row // size])["input_ids"] for row in rows]
    completions = [completion(step, row) for row in rows]
    width = max(len(p) + len(c) for p, c in zip(prompts, completions, strict=True))
    ids, attention, on = (torch.zeros(len(rows), width, dtype=torch.long) for _ in range(3))
    for row, (p, c) in enumerate(zip(prompts, completions, strict=True)):
        ids[row, : len(p) + len(c)] = torch.tensor(p + c)
        attention[row, : len(p) + len(c)] = 1
        on[row, len(p) : len(p) + len(c)] = 1
    logps = token_logps(model, ids, attention, on)
    scores = [reward(c, step, row) for row, c in zip(rows, completions, strict=True)]
    grouped = logps.detach().view(groups, size, -1)
    batch = GroupBatch(
        grouped,
        grouped,
        on.view_as(grouped),
        torch.tensor([score or 0.0 for score in scores], dtype=torch.float64).view(groups, size),
        valid=torch.tensor([score is not None for score in scores]).view(groups, size),
    )
    return model, logps, batch


def assert_gradient_of_apo(got: list[torch.Tensor], step: int, alpha: float, **shape) -> None:
    model, logps, batch = our_batch(step, **shape)
    (apo_coefficients(batch, alpha).flatten(0, 1) * logps).sum().backward()
    for theirs, ours in zip(got, model.parameters(), strict=True):
        torch.testing.assert_close(theirs, ours.grad, rtol=0, atol=1e-6)  # TRL keeps rewards in float32
    assert max(p.abs().max().item() for p in got) > 0.1


def logged(trainer, name: str) -> list[float]:
    return [row[name] for row in trainer.state.log_history if name in row]


@pytest.fixture(scope="module")
def trl_apo():
    """The adapter; skips where there is no TRL of the tested version."""
    trl = pytest.importorskip("trl", reason="the adapter needs TRL: pip install 'apo_edu[peers]'")
    if not trl.__version__.startswith("1.16."):
        pytest.skip(f"the adapter is tested with TRL 1.16, here is {trl.__version__}")
    return importlib.import_module("full.peers.trl_apo")


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_each_step_of_trl_has_the_gradient_of_apo(trl_apo, tmp_path, level):
    seen, schedule = Gradients(), LinearAlpha(0.0, 1.0, num_steps=4)
    trainer = make_trainer(tmp_path, schedule=schedule, callbacks=[seen], importance_sampling_level=level)
    trainer.train()
    assert logged(trainer, "alpha") == [0.0, 0.25, 0.5, 0.75, 1.0]
    for step, (alpha, got) in enumerate(zip(logged(trainer, "alpha"), seen.steps, strict=True)):
        assert_gradient_of_apo(got, step, alpha)
    # The table of completions shows the advantages that are used.
    want = group_reshaped_advantages(
        (last := our_batch(4)[2]).rewards, alpha=1.0, tau_anc=TAU, beta_r=BETA, valid=last.valid
    )
    assert list(trainer._logs["advantages"]) == pytest.approx(want.flatten().tolist(), abs=1e-5)


def test_guarded_alpha_sees_the_signals_of_the_step(trl_apo, tmp_path):
    schedule = GuardedAlpha(rho=0.5)
    trainer = make_trainer(tmp_path, schedule=schedule, confidence_from="candidates")
    trainer.train()
    ema = None
    for step, (alpha, confidence) in enumerate(
        zip(logged(trainer, "alpha"), logged(trainer, "confidence"), strict=True)
    ):
        batch = our_batch(step)[2]
        entropies = []
        for logps, mask, valid in zip(batch.logps, batch.mask, batch.valid, strict=True):
            p = ((logps * mask).sum(-1) / mask.sum(-1))[valid].softmax(-1)
            entropies.append(-(p * p.log()).sum().item() / math.log(len(p)))
        assert confidence == pytest.approx(1 - sum(entropies) / 2, abs=1e-5)
        reward = batch.rewards[batch.valid].mean().item()
        last = reward if ema is None else ema
        ema = 0.5 * last + 0.5 * reward
        gate = math.tanh(max(0.0, reward - last) / 0.1)
        assert alpha == pytest.approx(0.9 - 0.55 * confidence * gate, abs=1e-4)
    assert min(logged(trainer, "alpha")) < 0.85 < max(logged(trainer, "alpha")) == 0.9
    state = schedule.state_dict()
    trainer.evaluate()
    assert schedule.state_dict() == state


def test_confidence_from_tokens_is_the_entropy_of_the_policy_at_each_token(trl_apo, tmp_path):
    trainer = make_trainer(tmp_path, schedule=GuardedAlpha(), max_steps=2)
    trainer.train()
    for step, confidence in enumerate(logged(trainer, "confidence")):
        model, total, tokens = small_model(), 0.0, 0
        for row in range(8):  # two groups of four; every token's whole distribution, one completion at a time
            prompt, ids = TOKENIZER(PROMPTS[step * 2 + row // 4])["input_ids"], completion(step, row)
            with torch.no_grad():
                logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1].double()
            total += torch.special.entr(logits.softmax(-1)).sum().item()
            tokens += len(ids)
        assert confidence == pytest.approx(1 - total / tokens / math.log(logits.shape[-1]), abs=1e-5)


def test_confidence_from_answers_counts_what_is_boxed(trl_apo, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(trl_apo, "answer_number", lambda text: seen.append(text) or len(text) % 2)
    trainer = make_trainer(tmp_path, schedule=GuardedAlpha(), confidence_from="answers", max_steps=1)
    trainer.train()
    batch, entropies = our_batch(0)[2], []
    for group in range(2):
        answers = [len(text) % 2 for i, text in enumerate(seen[group * 4 : group * 4 + 4]) if batch.valid[group, i]]
        shares = [answers.count(a) / len(answers) for a in set(answers)]
        entropies.append(-sum(f * math.log(f) for f in shares) / math.log(len(answers)))
    assert len(seen) == 8 and logged(trainer, "confidence") == [pytest.approx(1 - sum(entropies) / 2, abs=1e-6)]
    assert trl_apo.text_of([{"role": "assistant", "content": "a"}, {"role": "tool", "content": None}]) == "a"


def test_trl_trains_and_resumes_with_the_schedule(trl_apo, tmp_path):
    options = {"learning_rate": 1e-3, "max_steps": 3, "save_strategy": "steps", "save_steps": 2}
    whole = make_trainer(tmp_path, schedule=GuardedAlpha(rho=0.5), **options)
    whole.train()
    assert any(not torch.equal(p, q) for p, q in zip(small_model().parameters(), whole.model.parameters(), strict=True))
    second = make_trainer(tmp_path, schedule=GuardedAlpha(rho=0.5), **options)
    second.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert logged(second, "alpha")[-1] == pytest.approx(logged(whole, "alpha")[-1], rel=1e-9)
    assert (
        logged(whole, "alpha")[-1] < 0.85
    )  # which a fresh schedule would not give: its first step shows no improvement
    (tmp_path / "checkpoint-2" / "alpha_schedule.json").unlink()
    with pytest.raises(ValueError, match="holds no alpha_schedule.json; expected a checkpoint of APOTrainer"):
        make_trainer(tmp_path, **options).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"loss_type": "dapo"}, "loss_type is 'dapo'; expected 'grpo'.*Leave loss_type out"),
        ({"scale_rewards": "group"}, "scale_rewards is 'group'; expected 'none'"),
        ({"multi_objective_aggregation": "normalize_then_sum"}, "expected 'sum_then_normalize'"),
        ({"mask_truncated_completions": True}, "mask_truncated_completions is True; expected False"),
        ({"tau_anc": 0.0}, "tau_anc is 0.0; expected a finite number > 0"),
        ({"beta_r": -1.0}, "beta_r is -1.0; expected a finite number > 0"),
        ({"confidence_from": "anchored"}, "confidence_from is 'anchored'; expected one of 'tokens', 'answers',"),
    ],
)
def test_trl_options_under_which_it_would_not_be_apo_are_refused(trl_apo, tmp_path, option, message):
    with pytest.raises(ValueError, match=message):
        trl_apo.APOConfig(output_dir=str(tmp_path), **OFFLINE, **option)


def test_later_updates_on_the_same_completions_are_announced(trl_apo, tmp_path, recwarn):
    trl_apo.APOConfig(output_dir=str(tmp_path), **OFFLINE)
    trl_apo.APOConfig(output_dir=str(tmp_path), **OFFLINE, num_iterations=2, gradient_accumulation_steps=2,
                      steps_per_generation=1)  # fmt: skip
    assert not [w for w in recwarn if "APO" in str(w.message)]
    for option in ({"num_iterations": 2}, {"steps_per_generation": 4}):
        with pytest.warns(UserWarning, match="only steps on fresh completions have APO's gradient"):
            trl_apo.APOConfig(output_dir=str(tmp_path), **OFFLINE, **option)


def test_trl_without_the_hooks_is_refused(trl_apo):
    with pytest.raises(ImportError, match=r"TRL 9.0 has no _calculate_rewards, .*pip install 'trl>=1.16,<1.17'"):
        trl_apo.require_hooks(type("GRPOTrainer", (), {}), "9.0")
    with pytest.warns(UserWarning, match="tested with TRL 1.16, here is 1.17.0"):
        trl_apo.require_hooks(version="1.17.0")
    with pytest.raises(ValueError, match="args is a GRPOConfig; expected an APOConfig"):
        trl_apo.APOTrainer(small_model(), args=trl_apo.GRPOConfig(output_dir="out", **OFFLINE))


TWO_PROCESSES = """
import json, sys, torch
from apo_edu import GuardedAlpha
from tests.test_engines import Gradients, logged, make_trainer
seen = Gradients()
trainer = make_trainer(sys.argv[1], schedule=GuardedAlpha(rho=0.5), callbacks=[seen], **json.loads(sys.argv[2]))
trainer.train()
if trainer.accelerator.is_main_process:
    torch.save((trainer.accelerator.num_processes, logged(trainer, "alpha"), seen.steps), sys.argv[1] + "/seen.pt")
"""


@pytest.mark.slow  # two processes that import TRL
def test_a_group_split_over_two_processes(trl_apo, tmp_path):
    options = {"num_generations": 8, "gradient_accumulation_steps": 1, "max_steps": 3}
    (tmp_path / "two.py").write_text(TWO_PROCESSES)
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config_file", "full/configs/accelerate/cpu.yaml", "--num_processes", "2"]
    out = subprocess.run(
        [*command, str(tmp_path / "two.py"), str(tmp_path), json.dumps(options)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert out.returncode == 0, out.stderr[-3000:]
    processes, alphas, steps = torch.load(tmp_path / "seen.pt")
    assert processes == 2
    alone = make_trainer(tmp_path, schedule=GuardedAlpha(rho=0.5), **options | {"per_device_train_batch_size": 8})
    alone.train()
    assert alphas == pytest.approx(logged(alone, "alpha"), abs=1e-6)
    for step, (alpha, got) in enumerate(zip(alphas, steps, strict=True)):
        assert_gradient_of_apo(got, step, alpha, groups=1, size=8)
