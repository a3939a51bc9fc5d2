"""What samples completions: one record per engine. Adding one is a module with its class, and a record here."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from full.errors import UserError
from full.options import suggestion

if TYPE_CHECKING:  # the records are read for --help, which must not load torch
    from full.engines.base import Engine


@dataclass(frozen=True, kw_only=True)
class EngineRecord:
    """All that the rest of the trainer knows of an engine.

    name: what the user calls it.
    module: where `make(config, model, tokenizer, model_name, accelerator)` is, and `require()`, which raises a UserError
        where the engine cannot run here; imported only when it is used.
    samples_with_policy: whether it samples with the policy's own weights in this process: then it knows the entropies of
        what it sampled, and its keys and values take memory only while it samples.
    help: one line.
    """

    name: str
    module: str
    samples_with_policy: bool
    help: str

    def require(self) -> None:
        """Raise a UserError unless the engine can run here."""
        self._function("require")()

    def make(self, *args: Any) -> "Engine":
        """The engine, see `full.engines.hf.make`."""
        return self._function("make")(*args)

    def _function(self, name: str) -> Callable[..., Any]:
        return getattr(import_module(self.module), name)


ENGINES = {
    record.name: record
    for record in (
        EngineRecord(
            name="hf",
            module="full.engines.hf",
            samples_with_policy=True,
            help="transformers' model in this process, on any device.",
        ),
        EngineRecord(
            name="vllm",
            module="full.engines.vllm",
            samples_with_policy=False,
            help="vLLM in this process; an extra of its own.",
        ),
    )
}


def find_engine(name: str) -> EngineRecord:
    """The record of an engine.

    Raises:
        UserError: an unknown name; says which there are.
    """
    if name not in ENGINES:
        raise UserError(f"engine is {name!r}; expected one of {', '.join(ENGINES)}.{suggestion(name, ENGINES)}")
    return ENGINES[name]


def make_engine(config: Any, model: Any, tokenizer: Any, model_name: str, accelerator: Any) -> "Engine":
    """The engine that config.engine names.

    Args:
        model_name: the folder or hub id that the model was loaded from.
    """
    return find_engine(config.engine).make(config, model, tokenizer, model_name, accelerator)
