"""Sharded training takes the same steps as one process: FSDP2, and DeepSpeed where it is installed, on two processors.

accelerate takes FSDP on GPUs only, so this file, run as a script, is the trainer with that one decision changed. All that
follows it is real: accelerate's FSDP2 code on torch's fully_shard, over gloo, with the shipped configuration.
"""

import importlib.util
import inspect
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from accelerate.utils.launch import prepare_multi_gpu_env
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from full import train
from full.errors import UserError
from full.logprobs.tokens import Policy
from full.trainer import rollout, sharding
from full.trainer import state as trainer_state
from full.trainer.launch import start_accelerator
from tests.helpers import metrics_without_times, save_small_model, small_model, small_run

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "full" / "configs" / "accelerate"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("model"))


def launch(way: str, arguments: list[str], config: str, seconds: int = 300) -> None:
    """Two processes of this file's `run_as`."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / config)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    out = subprocess.run(
        [*command, "--num_processes", "2", __file__, way, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert out.returncode == 0, out.stderr[-5000:]
    assert "returned a view tensor" not in out.stderr  # FSDP2 fears for its hooks


def assert_equal_runs(one: Path, two: Path, tolerance: float, name: str = "model.safetensors") -> None:
    a, b = load_file(one / "model" / name), load_file(two / "model" / name)
    assert a.keys() == b.keys()
    assert max((a[key].double() - b[key].double()).abs().max().item() for key in a) < tolerance
    for x, y in zip(metrics_without_times(one), metrics_without_times(two), strict=True):
        assert y == pytest.approx(x, rel=1e3 * tolerance, abs=tolerance)


# Several passes in an update, a clipped gradient, and processes that sample, score and evaluate in unequal numbers of passes.
UNEVEN = {"micro_batch_tokens": 150, "max_grad_norm": 0.1, "generation_rows": 3, "eval_problems": 7}


def test_fsdp2_and_its_resumed_run_take_the_steps_of_one_process(model, tmp_path):
    options = {"weights": "float64", **UNEVEN}
    train.main(small_run(model, tmp_path / "one", **options))
    launch("fsdp2-resumed", small_run(model, tmp_path / "two", **options), "cpu.yaml")
    # Adam divides by a gradient's size, so that rounding grows from step to step.
    assert_equal_runs(tmp_path / "one", tmp_path / "two", 1e-12)
    (last, *_) = sorted((tmp_path / "two" / "checkpoints").iterdir(), reverse=True)
    assert {path.name for path in last.glob("*/*.distcp")} == {"__0_0.distcp", "__1_0.distcp"}


@pytest.mark.slow
@pytest.mark.parametrize("lora", [{}, {"lora_rank": 4}, {"lora_rank": 4, "merge_lora": True}], ids=str)
def test_fsdp2_with_adapters_recomputed_activations_and_whole_checkpoints(model, tmp_path, lora):
    options = {"weights": "float64", "gradient_checkpointing": True, **UNEVEN, **lora}
    train.main(small_run(model, tmp_path / "one", **options))
    launch("fsdp2-whole", small_run(model, tmp_path / "two", **options), "cpu.yaml")
    adapters = lora and not lora.get("merge_lora")
    name = "adapter_model.safetensors" if adapters else "model.safetensors"
    assert_equal_runs(tmp_path / "one", tmp_path / "two", 1e-12, name)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # DeepSpeed compiles an operator when it is first used, minutes that must not be cut short
@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_and_its_resumed_run_take_the_steps_of_one_process(model, tmp_path, stage):
    options = {"gradient_checkpointing": True, **UNEVEN}
    train.main(small_run(model, tmp_path / "one", **options))
    launch("zero-resumed", small_run(model, tmp_path / "two", **options), f"zero{stage}.yaml", seconds=1500)
    assert_equal_runs(tmp_path / "one", tmp_path / "two", 1e-6)


@pytest.mark.parametrize("tied", [True, False])
def test_the_policy_hides_its_embeddings_from_accelerate(tied):
    # As accelerate asks (fsdp2_prepare_model): tied embeddings would be units of their own, which torch >= 2.13 refuses.
    policy = Policy(small_model(tie_word_embeddings=tied))
    asked = [getattr(policy, f"get_{kind}_embeddings", lambda: None)() for kind in ("input", "output")]
    assert asked == [None, None]
    assert "embed" in inspect.getsource(fsdp2_prepare_model)  # it still asks; else this test and the comment can go


def test_fsdp_that_would_be_no_fsdp_stops_the_run(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UserError, match=r"FSDP was asked for but accelerate has made NO of it.*cpu\.yaml"):
        start_accelerator(1)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_configurations_say_what_they_are_for_and_accelerate_reads_them(path):
    assert path.read_text().startswith("# ")
    asked = yaml.safe_load(path.read_text())["distributed_type"]
    arguments = launch_arguments(path)
    assert (arguments.use_fsdp, arguments.use_deepspeed) == (asked == "FSDP", asked == "DEEPSPEED")
    if asked == "DEEPSPEED":
        assert arguments.zero_stage == int(path.stem[-1])
        assert arguments.offload_optimizer_device == arguments.offload_param_device == "none"


def launch_arguments(path: Path):
    """What `accelerate launch` makes of a configuration."""
    words = ["--config_file", str(path), "--num_processes", "2", "full/train.py"]
    return _validate_launch_command(launch_command_parser().parse_args(words))[0]


def is_cut(parameter: Tensor) -> bool:
    """Whether other processes hold parts of it: a DTensor in FSDP2, empty in ZeRO-3."""
    return isinstance(parameter, DTensor) or parameter.numel() == 0


def run_as(way: str, arguments: list[str]) -> None:
    """The trainer on FSDP2 or ZeRO; then, if the way says so, again from the checkpoint before the last."""
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    def start(*args, **kwargs):
        accelerator = start_accelerator(*args, **kwargs)
        accelerator.end_training = lambda: None  # the processes still talk to each other afterwards
        if way.startswith("zero"):
            # By default weights below 1e5 elements are not cut: all of the small model's.
            zero = accelerator.state.deepspeed_plugin.deepspeed_config["zero_optimization"]
            zero["stage3_param_persistence_threshold"] = 0
            return accelerator
        environment = prepare_multi_gpu_env(launch_arguments(CONFIGS / "fsdp2.yaml"))
        os.environ.update({name: value for name, value in environment.items() if name.startswith("FSDP_")})
        if way.endswith("whole"):
            os.environ["FSDP_STATE_DICT_TYPE"] = "FULL_STATE_DICT"
        accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
        kind = accelerator.state.distributed_type = DistributedType.FSDP
        PartialState._shared_state["distributed_type"] = kind
        assert accelerator.is_fsdp2
        return accelerator

    whole_weights = sharding.whole_weights

    @contextmanager
    def checked(policy):
        with whole_weights(policy):
            assert not any(map(is_cut, policy.parameters()))
            yield
        whole_anyway = way.startswith("zero") and policy.zero_optimization_stage() < 3
        assert whole_anyway or all(map(is_cut, policy.parameters()))

    train.start_accelerator = start
    for module in (train, trainer_state, rollout):
        module.whole_weights = checked
    train.main(arguments)
    if way.endswith("resumed"):
        state, run = PartialState(), Path(arguments[arguments.index("--output_dir") + 1])
        state.wait_for_everyone()
        if state.is_main_process:
            shutil.rmtree(run / "checkpoints" / "step-6")
            shutil.rmtree(run / "model")
        state.wait_for_everyone()
        train.main(["--resume", str(run)])


if __name__ == "__main__":
    run_as(sys.argv[1], sys.argv[2:])
