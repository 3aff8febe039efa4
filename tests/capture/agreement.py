"""Compares a record with a real run of the same model on the same numbers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from capture.replaying import replay
from initio.capture.modules import Tree, named_tensors
from initio.capture.program import record
from initio.capture.sampling import draw
from initio.core.inputs import InputSpec
from initio.core.record import Record


def fill(item: Any, made: list[Tensor]) -> Any:
    if isinstance(item, InputSpec):
        t = torch.as_tensor(item.data) if item.data is not None else draw(item.distribution, item.shape, getattr(torch, item.dtype))
        made.append(t.requires_grad_() if t.is_floating_point() else t)
        return t
    if isinstance(item, (tuple, list)):
        return type(item)(fill(x, made) for x in item)
    if isinstance(item, dict):
        return {k: fill(x, made) for k, x in item.items()}
    return item


def agree(
    model: Any,
    args: tuple[Any, ...] = (),
    kwargs: dict[str, Any] | None = None,
    *,
    loss: Any = None,
    train: bool = True,
    tolerance: float = 1e-9,
    seed: int = 3,
    apply: Callable[..., Tensor] | None = None,
) -> Record:
    """Record, replay with real numbers, run for real; assert that outputs and all gradients are equal."""
    kwargs = kwargs or {}
    before = {k: v.clone() for k, v in model.state_dict().items()} if isinstance(model, nn.Module) else {}
    recorded = record(model, args, kwargs, loss=loss, train=train)
    assert recorded.crash is None, recorded.crash
    assert [v.id for v in recorded.values] == list(range(len(recorded.values)))
    for k, v in before.items():
        assert torch.equal(v, model.state_dict()[k]), k
    torch.manual_seed(seed)
    made: list[Tensor] = []
    real_args, real_kwargs = fill(args, made), fill(kwargs, made)
    targets = [i for i in recorded.inputs if i.name == "target"]
    target = [draw(i.distribution, recorded.values[i.value].shape, getattr(torch, recorded.values[i.value].dtype)) for i in targets]
    given = {i.value: t.detach().clone() for i, t in zip(recorded.inputs, [*made, *target], strict=True)}
    twin = copy.deepcopy(model) if isinstance(model, nn.Module) else model
    tensors = {}
    if isinstance(twin, nn.Module):
        twin.train(train)
        tensors = {name: t for of in ("parameters", "buffers") for name, _, _, t in Tree(twin).tensors(of)}
        given.update({p.value: tensors[p.name].detach().clone() for p in recorded.parameters if p.name in tensors})
    cotangents = {
        o.cotangent: torch.randn(recorded.values[o.value].shape, dtype=getattr(torch, recorded.values[o.value].dtype))
        for o in recorded.outputs
        if o.cotangent is not None and loss is None
    }
    given.update(cotangents)
    torch.manual_seed(seed + 1)
    env = replay(recorded, given)
    torch.manual_seed(seed + 1)
    result = twin(*real_args, **real_kwargs)
    outputs = [t for _, t in named_tensors(result)]
    for mine, theirs in zip(recorded.outputs, outputs, strict=True):
        _close(env[mine.value], theirs, tolerance, f"output {mine.name}")
    if loss is None:
        pairs = [(t, cotangents[o.cotangent]) for o, t in zip(recorded.outputs, outputs, strict=True) if o.cotangent is not None]
        if pairs:
            torch.autograd.backward([t for t, _ in pairs], [c for _, c in pairs])
    else:
        assert apply is not None
        total = apply(result, *target)
        total.backward()
        assert recorded.loss is not None
        _close(env[recorded.loss], total, tolerance, "loss")
    for p in recorded.parameters:
        if p.buffer or p.name not in tensors:
            continue
        theirs = tensors[p.name].grad
        assert (p.gradient is None) == (theirs is None), (p.name, p.gradient)
        if p.gradient is not None and theirs is not None:
            _close(env[p.gradient], theirs, tolerance, f"gradient of {p.name}")
    for item, t in zip(recorded.inputs, made, strict=False):
        assert (item.gradient is None) == (t.grad is None), item.name
        if item.gradient is not None and t.grad is not None:
            _close(env[item.gradient], t.grad, tolerance, f"gradient of {item.name}")
    return recorded


def _close(mine: Tensor, theirs: Tensor, tolerance: float, what: str) -> None:
    assert mine.shape == theirs.shape, what
    torch.testing.assert_close(mine, theirs.detach(), rtol=tolerance, atol=tolerance, msg=lambda m: f"{what}: {m}")
