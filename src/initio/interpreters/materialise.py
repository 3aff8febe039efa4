"""Drawing a plan into a model: real tensors, tensors on the meta device, and shards; and its correction on a batch."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportPrivateUsage=false

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from initio.capture.initializers import sample_parameter
from initio.capture.modules import Tree
from initio.core.distribution import Distribution
from initio.core.errors import InitioError
from initio.core.plan import Plan
from initio.interpreters.draws import tensors
from initio.interpreters.solve import scaled

__all__ = ["apply", "polish"]

GIVEN = ("values", "program")
"""Families of entries that only the author's code knows."""
NEAR = 1e-3
"""Relative error of a second moment at which a module counts as polished."""


@torch.no_grad()
def apply(plan: Plan, model: nn.Module, generator: torch.Generator | None, device: torch.device | str | None) -> nn.Module:
    """Draw every parameter of the plan; `initio.core.plan.Plan.apply_`."""
    found = _matching(plan, model)
    given = [name for name, law in plan.parameters.items() if _given(plan, name, law) and found[name].is_meta]
    buffers = {name: tensor for name, tensor in model.named_buffers() if tensor.is_meta}
    unknown = [*given, *(name for name in buffers if name not in plan.buffers)]
    if unknown:
        came = f"{', '.join(unknown[:4])} {'is' if len(unknown) == 1 else 'are'} on the meta device and made by the author's code"
        raise InitioError(
            "values that a plan can draw", came, where="apply_", remedy="Build these on a real device, and apply the plan then."
        )
    base = _base(found.values(), generator)
    for name, law in plan.parameters.items():
        if not _given(plan, name, law):
            target = _made(model, found[name], device)
            _fill(target, law, base, name)
    present = dict(model.named_buffers())
    for name, law in plan.buffers.items():
        if name in present:
            target = _made(model, present[name], device)
            target.fill_(law.parameters["value"])
    return model


def _given(plan: Plan, name: str, law: Distribution) -> bool:
    return name not in plan.gains and law.family in GIVEN


def _matching(plan: Plan, model: Any) -> dict[str, Tensor]:
    """First name → parameter, once it is clear that the plan is this model's."""
    if not isinstance(model, nn.Module):
        raise InitioError("a torch.nn.Module", f"got {type(model).__name__}", where="model", remedy="Give the model that the plan is for.")
    every: dict[str, Tensor] = {}
    first: dict[int, str] = {}
    for name, _, _, tensor in Tree(model).tensors("parameters"):
        every[name] = tensor
        first.setdefault(id(tensor), name)
    names = {alias for name in plan.parameters for alias in (name, *plan.owners[name].names)}
    missing = [name for name in plan.parameters if name not in every]
    extra = [name for name in first.values() if name not in names]
    remedy = "Solve a plan for this model, or give the module that the plan was solved for (model.module of a wrapper)."
    for said, found in (("the model lacks", missing), ("the plan lacks", extra)):
        if found:
            more = f" and {len(found) - 4} more" if len(found) > 4 else ""
            raise InitioError("the model that the plan is for", f"{said} {', '.join(found[:4])}{more}", where="plan", remedy=remedy)
    for name, owner in plan.owners.items():
        if name not in plan.parameters:
            continue
        shape = tuple(every[name].shape)
        if shape != owner.shape:
            raise InitioError("the model that the plan is for", f"{name} has shape {shape}, not {owner.shape}", where="plan", remedy=remedy)
        loose = [alias for alias in owner.names if every.get(alias) is not every[name]]
        if loose:
            raise InitioError("the model that the plan is for", f"{loose[0]} is not tied to {name}", where="plan", remedy=remedy)
    return {name: every[name] for name in plan.parameters}


def _base(parameters: Any, generator: torch.Generator | None) -> int:
    """One number that seeds all draws; the same on all ranks where there are shards."""
    seed = torch.randint(1 << 62, (), generator=generator, device=generator.device if generator is not None else "cpu")
    meshes = [p.device_mesh for p in parameters if hasattr(p, "device_mesh")]
    if meshes:
        import torch.distributed as dist

        seed = seed.to(meshes[0].device_type)
        dist.broadcast(seed, 0)
    return int(seed)


def _made(model: nn.Module, tensor: Tensor, device: torch.device | str | None) -> Tensor:
    """The tensor, or what takes its place everywhere in the model if it is on the meta device."""
    if not tensor.is_meta:
        return tensor
    real: Tensor = torch.empty_like(tensor, device=_device(tensor, device))
    if isinstance(tensor, nn.Parameter):
        real = nn.Parameter(real, requires_grad=tensor.requires_grad)
    for module in Tree(model).modules.values():
        for table in (module._parameters, module._buffers):
            for key, held in table.items():
                if held is tensor:
                    table[key] = real  # pyright: ignore[reportArgumentType]
    return real


def _device(tensor: Tensor, device: torch.device | str | None) -> torch.device | str:
    if hasattr(tensor, "device_mesh"):
        return tensor.device_mesh.device_type  # pyright: ignore[reportAttributeAccessIssue]
    return device or "cpu"


def _fill(target: Tensor, law: Distribution, base: int, name: str) -> None:
    digest = hashlib.sha256(f"{base}:{name}".encode()).digest()
    stream = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    drawn = sample_parameter(replace(law, shape=tuple(target.shape)), dtype=target.dtype, generator=stream)
    if hasattr(target, "device_mesh"):
        target.to_local().copy_(_shard(target, drawn))  # pyright: ignore[reportAttributeAccessIssue]
    else:
        target.copy_(drawn)


def _shard(target: Any, drawn: Tensor) -> Tensor:
    """This rank's part of a tensor that every rank has drawn alike."""
    from torch.distributed.tensor import Replicate, Shard

    local, mesh = drawn, target.device_mesh
    coordinates = mesh.get_coordinate()
    for dim, placement in enumerate(target.placements):
        if isinstance(placement, Shard) and type(placement) is Shard:
            pieces = list(local.chunk(mesh.size(dim), dim=placement.dim))
            rank = coordinates[dim]
            local = pieces[rank] if rank < len(pieces) else local.narrow(placement.dim, 0, 0)
        elif not isinstance(placement, Replicate):
            remedy = "Shard with fully_shard or Shard(dim), or apply the plan before the model is distributed."
            raise InitioError("parameters that are sharded or replicated", f"one has placement {placement}", where="apply_", remedy=remedy)
    return local


@torch.no_grad()
def polish(plan: Plan, model: nn.Module, batch: Any) -> Plan:
    """Correct the weights on a batch; `initio.core.plan.Plan.polish`."""
    found = _matching(plan, model)
    if any(tensor.is_meta for tensor in found.values()):
        raise InitioError("a model with values", "it is on the meta device", where="polish", remedy="Call plan.apply_(model) first.")
    factors: dict[str, float] = {}
    weights: dict[str, str] = {}
    for name, module in plan.outputs.items():
        if module in plan.wanted:
            weights.setdefault(module, name)
    modules = dict(model.named_modules())
    missing: dict[str, str] = {}

    def hook(path: str) -> Any:
        def correct(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            name = weights[path]
            if name in factors or name in missing:
                return None
            factor = 1.0
            for _ in range(10):
                first = tensors(output)
                second = float(first[0].double().square().mean()) if first else math.nan
                if not math.isfinite(second):
                    came = f"the second moment of {path or 'the model'} is {second}"
                    raise InitioError("finite outputs on this batch", came, where="polish", remedy="Look for NaN in the batch.")
                if second == 0.0:
                    missing[name] = "its output on the batch is zero"
                    return None
                if abs(second / plan.wanted[path] - 1) < NEAR:
                    break
                step = math.sqrt(plan.wanted[path] / second)
                found[name].mul_(step)
                factor *= step
                output = module.forward(*args, **kwargs)
            factors[name] = factor
            return output

        return correct

    handles = [modules[path].register_forward_hook(hook(path), with_kwargs=True) for path in weights if path in modules]
    try:
        _call(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return _polished(plan, factors, missing)


def _call(model: nn.Module, batch: Any) -> None:
    if isinstance(batch, Mapping):
        model(**batch)
    elif isinstance(batch, (tuple, list)):
        model(*batch)
    else:
        model(batch)


def _polished(plan: Plan, factors: Mapping[str, float], missing: Mapping[str, str]) -> Plan:
    parameters = {name: scaled(law, factors[name]) if name in factors else law for name, law in plan.parameters.items()}
    gains = {name: gain * factors.get(name, 1.0) for name, gain in plan.gains.items()}
    reached = {plan.outputs[name] for name in factors}
    unreached = {path: why for path, why in plan.unreached.items() if path not in reached}
    unreached |= {plan.outputs[name]: why for name, why in missing.items()}
    after = {path: replace(scale, second=plan.wanted[path]) if path in reached else scale for path, scale in plan.after.items()}
    note = f"polished on a batch: {len(factors)} weights scaled; E[y²] after is the batch's, the gradients are the prediction without it"
    return replace(plan, parameters=parameters, gains=gains, unreached=unreached, after=after, notes=(*plan.notes, note))
