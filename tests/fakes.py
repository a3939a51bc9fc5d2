"""Models of any size without their weights: fake tensors that know shape and type, and a count of the bytes alive.

The trainer's own functions run on them as they are: ids and masks are real, whatever meets a weight is fake. They stand for
a GPU's: autocast to bfloat16 and the attention kernel that a GPU takes for a mask.
"""

import weakref

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from transformers import AutoModelForCausalLM, GenerationConfig, Qwen3Config

from full.models.adapters import add_adapters, keep_base_in

# Of config.json on the hub.
SHAPES = {
    "0.6B": {"hidden_size": 1024, "intermediate_size": 3072},
    "1.7B": {"hidden_size": 2048, "intermediate_size": 6144},
    "8B": {"hidden_size": 4096, "intermediate_size": 12288},
}


class LiveBytes(TorchDispatchMode):
    """Bytes of all tensors alive, each storage once, and the most that there were (`peak`)."""

    def __init__(self, tensors=()) -> None:
        super().__init__()
        self.live: dict[int, int] = {}
        self.now = self.peak = 0
        for tensor in tensors:
            self.add(tensor)

    def add(self, tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self.live:
            self.live[key] = storage.nbytes()
            self.now += self.live[key]
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self.drop, key)

    def drop(self, key: int) -> None:
        self.now -= self.live.pop(key)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.cumsum.default and out.dtype != args[0].dtype:
            self.peak = max(self.peak, self.now + 2 * out.nbytes)  # it casts its input first, where no mode sees it
        for tensor in tree_flatten(out)[0]:
            if isinstance(tensor, torch.Tensor):
                self.add(tensor)
        return out


def fake_qwen3(shape: str, *, layers: int = 28, lora_rank: int = 0, checkpointing: bool = False, **changes):
    """A Qwen3 of fake tensors; with adapters on a base as `set_up` keeps it on a GPU."""
    options = {"vocab_size": 151936, "num_hidden_layers": layers, "num_attention_heads": 16, "num_key_value_heads": 8}
    options |= {"head_dim": 128, "max_position_embeddings": 40960, "tie_word_embeddings": True, **SHAPES[shape]}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(Qwen3Config(**(options | changes)), dtype=torch.float32)
        if lora_rank:
            add_adapters(model, lora_rank)
            keep_base_in(model, torch.bfloat16)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    made: dict[int, torch.nn.Parameter] = {}
    with mode:
        for module in model.modules():
            for name, p in module._parameters.items():
                if p is not None:
                    if id(p) not in made:
                        empty = torch.empty(p.shape, dtype=p.dtype)
                        made[id(p)] = torch.nn.Parameter(empty, requires_grad=p.requires_grad)
                    module._parameters[name] = made[id(p)]
            for name, b in module._buffers.items():
                if b is not None:
                    module._buffers[name] = torch.empty(b.shape, dtype=b.dtype)
    model.generation_config = GenerationConfig(eos_token_id=[151645, 151643], pad_token_id=151643)
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
        model.train()
    return model
