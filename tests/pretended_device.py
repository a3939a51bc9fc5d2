"""A pretended GPU: real numbers on the CPU that claim to be on cuda:0, strict about devices, every synchronisation counted.

A tensor of it holds an ordinary one. To autograd's C++ it is on the meta device, which needs no driver; to Python it is
on cuda:0. What a GPU refuses (operands on two devices) is refused, and
what makes the program wait for a GPU (a number read, a question about a value, a copy to the host, or one from it that was
not declared asynchronous) is noted with the line of ours that asked.
"""

import contextlib
import traceback
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import torch
from accelerate.utils import DistributedType
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from full.trainer.precision import half_type

ROOT = Path(__file__).parents[1]
CUDA = torch.device("cuda", 0)
# What the CUDA kernels of these need to know on the host.
READING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "unique_dim", "unique_consecutive"}
COPYING = {"copy_", "_to_copy"}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}


class Pretended(torch.Tensor):
    """A tensor on the pretended GPU."""

    @staticmethod
    def __new__(cls, held):
        meta = torch.empty_strided(held.size(), held.stride(), dtype=held.dtype, device="meta")
        made = torch.Tensor._make_subclass(cls, meta, held.requires_grad, device_for_backend_keys=CUDA)
        made.held = held.detach()
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_meta = property(lambda self: False)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})

    def tolist(self):
        _note("tolist")
        return self.held.tolist()

    def __repr__(self):
        return f"Pretended({tuple(self.shape)}, {self.dtype})"


class _Autocast(TorchFunctionMode):
    """Autocast's products in half precision: its C++ asks tensors for their device itself, and would leave ours alone.

    Not while autograd computes a checkpointed layer again: torch switches such modes off there.
    """

    PRODUCTS = (
        torch.nn.functional.linear,
        torch.nn.functional.scaled_dot_product_attention,
        torch.matmul,
        torch.Tensor.matmul,
        torch.Tensor.__matmul__,
        torch.bmm,
    )

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in self.PRODUCTS and torch.is_autocast_enabled("cuda"):
            args, kwargs = tree_map(self._half, (args, kwargs))
        return func(*args, **kwargs)

    @staticmethod
    def _half(value):
        single = isinstance(value, Pretended) and value.dtype == torch.float32
        return value.to(torch.get_autocast_dtype("cuda")) if single else value


class PretendedDevice(TorchDispatchMode):
    """Within it tensors are made on the pretended GPU where cuda:0 is asked for.

    waits: how often the program waited for the device, by (operation, line).
    """

    current: "PretendedDevice | None" = None

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[tuple[str, str]] = Counter()

    def __enter__(self):
        self.autocast = _Autocast()
        self.autocast.__enter__()
        self.lifting = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        PretendedDevice.current = self
        return super().__enter__()

    def __exit__(self, *error):
        torch._C._set_only_lift_cpu_tensors(self.lifting)
        PretendedDevice.current = None
        super().__exit__(*error)
        return self.autocast.__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})

    def take(self) -> Counter[tuple[str, str]]:
        """The waits since the last call."""
        waits, self.waits = self.waits, Counter()
        return waits


def _note(operation: str) -> None:
    mode = PretendedDevice.current
    if mode is not None:
        frames = [
            f
            for f in traceback.extract_stack()
            if Path(f.filename).is_relative_to(ROOT) and "site-packages" not in f.filename
        ]
        own = [f for f in frames if not Path(f.filename).is_relative_to(ROOT / "tests")] or frames
        line = f"{Path(own[-1].filename).relative_to(ROOT)}:{own[-1].lineno}" if own else "elsewhere"
        mode.waits[operation, line] += 1


def _run(func, args, kwargs):
    """One operation: refuse what a GPU refuses, note what waits, compute on what is held."""
    name = func.overloadpacket.__name__
    flat = tree_flatten((args, kwargs))[0]
    ours = [t for t in flat if isinstance(t, Pretended)]
    others = [t for t in flat if isinstance(t, torch.Tensor) and not isinstance(t, Pretended) and t.dim() > 0]
    device = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
    to_host, to_gpu = (device is not None and device.type in kinds for kinds in (("cpu",), ("cuda", "meta")))
    if name in READING and ours:
        _note(name)
    if name in INDEXING:
        _check_indices(name, args)
    elif name == "copy_":
        if ours and others and (not isinstance(args[0], Pretended) or not _asynchronous(args, kwargs)):
            _note("copy")
    elif name == "_to_copy":
        if (ours and to_host) or (others and to_gpu and not kwargs.get("non_blocking")):
            _note("copy")
    elif ours and others:
        shapes = [tuple(t.shape) for t in others]
        raise RuntimeError(f"{func}: expected all tensors to be on the same device, but {shapes} are on the CPU")
    options = {**kwargs, "device": torch.device("cpu")} if to_gpu else dict(kwargs)
    held = lambda t: t.held if isinstance(t, Pretended) else t  # noqa: E731
    out = func(*tree_map(held, args), **tree_map(held, options))
    if _in_place(func):
        return args[0] if isinstance(out, torch.Tensor) else out
    if to_host or not (ours or to_gpu):
        return out
    return tree_map(lambda t: Pretended(t) if isinstance(t, torch.Tensor) else t, out)


def _in_place(func) -> bool:
    name = func._schema.name.split("::")[1]
    return name.endswith("_") and not name.endswith("__")


def _asynchronous(args, kwargs) -> bool:
    return bool(kwargs.get("non_blocking", args[2] if len(args) > 2 else False))


def _check_indices(name, args) -> None:
    tensor, indices = args[0], [i for i in args[1] if i is not None]
    values = [v for v in args[2:3] if isinstance(v, torch.Tensor) and v.dim() > 0]
    on_gpu = isinstance(tensor, Pretended)
    if any(isinstance(v, Pretended) is not on_gpu for v in values) or (
        not on_gpu and any(isinstance(i, Pretended) for i in indices)
    ):
        raise RuntimeError(f"{name}: expected tensor, indices and values to be on the same device")
    if on_gpu and any(i.dtype in (torch.bool, torch.uint8) for i in indices):
        _note(f"{name} by booleans")
    if on_gpu and any(not isinstance(i, Pretended) for i in indices):
        _note(f"{name} by indices of the CPU")


def move(module: torch.nn.Module) -> dict[torch.nn.Parameter, torch.nn.Parameter]:
    """Put a module's parameters and buffers on the pretended GPU; the new parameter of each old one."""
    moved: dict[torch.nn.Parameter, torch.nn.Parameter] = {}
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                if parameter not in moved:
                    moved[parameter] = torch.nn.Parameter(
                        Pretended(parameter.data), requires_grad=parameter.requires_grad
                    )
                part._parameters[name] = moved[parameter]
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = Pretended(buffer)
    return moved


class _Scaled:
    """An optimiser that steps as accelerate's does in float16."""

    def __init__(self, optimizer, scaler):
        self.optimizer, self.scaler, self.zero_grad = optimizer, scaler, optimizer.zero_grad

    def step(self):
        self.scaler.step(self.optimizer)
        self.scaler.update()


class PretendedAccelerator:
    """What the trainer asks of accelerate, with one process on the pretended GPU."""

    device, num_processes, process_index, is_main_process = CUDA, 1, 0, True
    is_fsdp2, distributed_type = False, DistributedType.NO
    state = SimpleNamespace(fsdp_plugin=None)

    def __init__(self, mixed_precision="bf16", scale=2.0**16):
        self.mixed_precision = mixed_precision
        self.scaler = torch.amp.GradScaler("cuda", init_scale=scale) if mixed_precision == "fp16" else None

    def prepare(self, policy, optimizer):
        moved = move(policy)
        for group in optimizer.param_groups:
            group["params"] = [moved[parameter] for parameter in group["params"]]
        self.optimizer = optimizer
        return policy, _Scaled(optimizer, self.scaler) if self.scaler else optimizer

    def autocast(self):
        half = half_type(self)
        return torch.autocast("cuda", half) if half else contextlib.nullcontext()

    def backward(self, loss):
        (self.scaler.scale(loss) if self.scaler else loss).backward()

    def clip_grad_norm_(self, parameters, max_norm):
        if self.scaler:
            self.scaler.unscale_(self.optimizer)
        return torch.nn.utils.clip_grad_norm_(parameters, max_norm)

    def no_sync(self, policy):
        return contextlib.nullcontext()

    def unwrap_model(self, policy):
        return policy

    def register_for_checkpointing(self, *objects):
        """Nothing is saved."""

    def end_training(self):
        """Nothing is tracked."""


def pretend_cuda(monkeypatch) -> None:
    """Let torch believe that it could use CUDA, where it asks before it does."""
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *args, **options: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *device: "NVIDIA Pretended")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
