"""Where the numbers of a model are: sharded among ranks (DTensor), or offloaded by accelerate until a module needs them."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportPrivateUsage=false

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from initio.capture.modules import Tree
from initio.core.errors import InitioError

__all__ = ["Offloaded", "Placed", "Wrap", "copied", "placed", "sums"]

Wrap = Callable[[nn.Module], Any]
PRINT = 16
"""Entries of a parameter by which it is known again behind a wrapper."""


def sums(tensor: Tensor) -> tuple[float, float]:
    """Σ x and Σ |x|² over all entries in float64; of a DTensor over all ranks, each of which must call this.

    Shards are reduced where they are, so that no rank ever holds the whole tensor; partial sums are completed first.
    """
    groups: list[Any] = []
    if hasattr(tensor, "device_mesh"):
        sharded: Any = tensor
        if any(placement.is_partial() for placement in sharded.placements):
            from torch.distributed.tensor import Replicate

            whole = [Replicate() if placement.is_partial() else placement for placement in sharded.placements]
            sharded = sharded.redistribute(placements=whole)
        mesh = sharded.device_mesh
        groups = [mesh.get_group(dim) for dim, placement in enumerate(sharded.placements) if not placement.is_replicate()]
        tensor = sharded.to_local()
    wide = torch.complex128 if tensor.is_complex() else torch.float64
    total = torch.view_as_real(tensor.sum(dtype=wide))[0] if tensor.is_complex() else tensor.sum(dtype=wide)
    norm = torch.linalg.vector_norm(tensor, dtype=wide) if tensor.numel() else total
    pair = torch.stack((total, norm * norm))
    for group in groups:
        torch.distributed.all_reduce(pair, group=group)
    return float(pair[0]), float(pair[1])


@dataclass(frozen=True, slots=True)
class Placed:
    """A model in its place: `model` has the names, `call` is what is called (the model, or what was put around it)."""

    model: nn.Module
    call: nn.Module
    offloaded: Offloaded


def placed(model: nn.Module, wrap: Wrap | None) -> Placed:
    """The model behind its wrapper.

    Raises:
        InitioError: no module from the wrapper; parameters without numbers.
    """
    tensors = list(Tree(model).tensors("parameters")) if wrap is not None else []
    first: dict[int, str] = {}
    names = {name: first.setdefault(id(tensor), name) for name, _, _, tensor in tensors}
    prints = {name: tensor.detach().flatten()[:PRINT].clone() for name, _, _, tensor in tensors if not tensor.is_meta}
    outer = model if wrap is None else wrap(model)
    if not isinstance(outer, nn.Module):
        remedy = "Return the module from it, also where it is changed in place."
        raise InitioError("a torch.nn.Module from the wrapper", f"it returned {type(outer).__name__}", where="wrap", remedy=remedy)
    offloaded = Offloaded(model, names, prints)
    lost = next((name for name, tensor in model.named_parameters() if tensor.is_meta and name not in offloaded), None)
    if lost is None and not offloaded:
        lost = next((name for name, tensor in model.named_buffers() if tensor.is_meta), None)
    if lost is not None:
        remedy = "Build it on a real device, or give it numbers in wrap (plan.apply_(model)); `analyze` needs none."
        raise InitioError("parameters with numbers to measure", f"{lost} is on the meta device", where="measure", remedy=remedy)
    return Placed(model, outer, offloaded)


def copied(module: nn.Module) -> nn.Module:
    """A copy of a built module.

    Raises:
        InitioError: one that is sharded already.
    """
    if torch.distributed.is_available():
        from torch.distributed.fsdp import FSDPModule

        if any(isinstance(each, FSDPModule) for each in module.modules()):
            remedy = "Give what builds it, and shard it in wrap: measure(build, …, wrap=fully_shard)."
            raise InitioError("a factory, or a module that can be copied", "it is sharded by fully_shard", where="measure", remedy=remedy)
    return copy.deepcopy(module)


class Offloaded:
    """Parameters on the meta device that a hook of accelerate loads for each call of their module, and drops after it.

    The loaded tensor is a new leaf for each call: the gradient of the parameter is the sum of theirs.
    """

    def __init__(self, model: nn.Module, names: Mapping[str, str], prints: Mapping[str, Tensor]) -> None:
        self.weights: dict[str, Tensor] = {}
        self.gradients: dict[str, Tensor] = {}
        self._prints = prints
        modules = dict(model.named_modules())
        hooks = {path: module for path, module in modules.items() if hasattr(module, "_hf_hook")}
        absent = {name for name, _, _, tensor in Tree(model).tensors("parameters") if tensor.is_meta} if hooks else set[str]()
        self._names = {name: names.get(name, name) for name in absent}
        if absent:
            for path, module in hooks.items():
                self._listen(path, module)

    def __bool__(self) -> bool:
        return bool(self._names)

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def _listen(self, path: str, module: nn.Module) -> None:
        from accelerate.hooks import ModelHook, SequentialHook

        seen = self._seen

        class Loaded(ModelHook):
            def pre_forward(self, module: Any, *args: Any, **kwargs: Any) -> Any:
                for name, tensor in module.named_parameters(remove_duplicate=False):
                    if not tensor.is_meta:
                        seen(f"{path}.{name}" if path else name, tensor)
                return args, kwargs

        module._hf_hook = SequentialHook(module._hf_hook, Loaded())  # pyright: ignore[reportArgumentType]

    def _seen(self, full: str, tensor: Tensor) -> None:
        name = self._names.get(full)
        if name is None or hasattr(tensor, "_seen_by_initio"):
            return
        tensor._seen_by_initio = True  # pyright: ignore[reportAttributeAccessIssue]
        known = self._prints.get(full)
        if known is not None and not torch.allclose(tensor.detach().flatten()[:PRINT].to(known), known, rtol=0.02, equal_nan=True):
            remedy = "Give each call of the wrapper a folder of its own, tempfile.mkdtemp() say: accelerate keeps what it finds in one."
            raise InitioError("the weights that were drawn", f"{full} is loaded with other ones", where="wrap", remedy=remedy)
        self.weights.setdefault(name, tensor.detach())
        if tensor.requires_grad:
            tensor.register_hook(partial(self._add, name))

    def _add(self, name: str, gradient: Tensor) -> None:
        held = self.gradients.get(name)
        gradient = gradient.detach().cpu()
        self.gradients[name] = gradient.clone() if held is None else held + gradient
