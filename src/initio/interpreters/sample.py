"""Monte Carlo: build and run the real model several times, and measure every activation and gradient."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from initio.core.estimate import Estimate
from initio.core.inputs import InputSpec
from initio.interpreters.draws import Progress, draw_input, objective, random_state, seed_all, tensors

__all__ = ["Inputs", "Key", "Measurement", "measure"]

Key = tuple[str, int, int]
"""Path of a module, index of its call, index among the floating tensors that the call returned."""

Inputs = Sequence[InputSpec] | Mapping[str, InputSpec]


@dataclass(frozen=True, slots=True)
class Measurement:
    """What `draws` runs of the real model showed.

    `outputs` and `cotangents` are keyed by (module path, call, output), numbered as in `core.record.Call`;
    `gradients` and `weights` by a parameter's first name; `inputs` (their gradients) by position or keyword.
    A tensor that no gradient reached is absent from `cotangents`, `gradients` or `inputs`; one without
    entries is absent throughout. `seconds` is the CPU time of the draws, `interrupted` whether fewer were
    made than asked for.
    """

    outputs: Mapping[Key, Estimate]
    cotangents: Mapping[Key, Estimate]
    gradients: Mapping[str, Estimate]
    weights: Mapping[str, Estimate]
    inputs: Mapping[str, Estimate]
    draws: int
    seconds: float
    interrupted: bool = False

    @property
    def unreached(self) -> tuple[str, ...]:
        """Parameters that received no gradient in any draw."""
        return tuple(name for name in self.weights if name not in self.gradients)


def measure(
    factory: Callable[[], nn.Module] | nn.Module,
    inputs: Inputs,
    *,
    draws: int = 8,
    loss: str | Callable[..., Any] | None = None,
    train: bool = True,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    progress: bool | None = None,
) -> Measurement:
    """Run forward and backward `draws` times with fresh weights, inputs and cotangents, and average the moments.

    `factory` is called once a draw, so that the author's own initialisation code draws the weights. A built
    module is copied instead: its weights stay as they are, and only inputs and cotangents vary. Without
    a `loss` the cotangent is an independent unit normal on every floating output; otherwise "cross_entropy",
    "nll", "mse", "bce_with_logits" (with random targets), "model" (the loss that the model returns) or a function of
    the model's result. `dtype` converts the model and its floating inputs (float64 shows gradients that
    underflow in float32). `progress` None shows a bar on a terminal once a second has passed. Ctrl-C keeps the draws that
    were finished; the global random state is left as it was.
    """
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    specs = _named(inputs)
    tables: dict[str, _Table] = {name: {} for name in ("outputs", "cotangents", "gradients", "weights", "inputs")}
    done, interrupted, start = 0, False, time.process_time()
    with random_state(), Progress(draws, progress) as bar:
        try:
            for index in range(draws):
                seed_all(seed * 1_000_003 + index)
                finished = _run(_built(factory, train, dtype), specs, loss, dtype)
                for name, table in tables.items():
                    _gather(table, finished[name])
                done += 1
                bar.advance()
        except KeyboardInterrupt:
            if not done:
                raise
            interrupted = True
    results = {name: {key: _estimate(entry) for key, entry in table.items()} for name, table in tables.items()}
    return Measurement(draws=done, seconds=time.process_time() - start, interrupted=interrupted, **cast("Any", results))


_Draw = dict[Any, tuple[float, float, int, tuple[int, ...]]]
_Table = dict[Any, list[tuple[float, float, int, tuple[int, ...]]]]


def _gather(table: _Table, draw: _Draw) -> None:
    for key, entry in draw.items():
        table.setdefault(key, []).append(entry)


def _estimate(entries: list[tuple[float, float, int, tuple[int, ...]]]) -> Estimate:
    means, seconds, counts, shapes = zip(*entries, strict=True)
    return Estimate.of(means, seconds, counts, shapes[-1])


def _named(inputs: Inputs) -> list[tuple[str, InputSpec]]:
    """(keyword or "", spec) in order: a dictionary's key is the keyword."""
    if isinstance(inputs, Mapping):
        return [(name, spec) for name, spec in inputs.items()]
    return [(spec.name, spec) for spec in inputs]


def _built(factory: Callable[[], nn.Module] | nn.Module, train: bool, dtype: torch.dtype | None) -> nn.Module:
    model = copy.deepcopy(factory) if isinstance(factory, nn.Module) else factory()
    if not isinstance(model, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"the factory must return a torch.nn.Module, it returned {type(model).__name__}: return the model from it")
    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        raise ValueError(
            "the model has parameters on the meta device, which hold no numbers to measure: pass a factory that builds it on a real device"
        )
    model.zero_grad(set_to_none=True)
    model.train(train)
    return model if dtype is None else model.to(dtype)


def _run(
    model: nn.Module, specs: list[tuple[str, InputSpec]], loss: str | Callable[..., Any] | None, dtype: torch.dtype | None
) -> dict[str, _Draw]:
    """One step: the statistics of every output, cotangent and gradient, taken at the moment when they exist."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    drawn = [(name, draw_input(spec, device, dtype)) for name, spec in specs]
    for _, tensor in drawn:
        if tensor.is_floating_point():
            tensor.requires_grad_()
    # The model gets a copy of the leaf: it may then write into its input, which a leaf would refuse.
    passed = [(name, tensor.clone() if tensor.requires_grad else tensor) for name, tensor in drawn]
    watch = _Watch(model)
    try:
        result = model(*(t for name, t in passed if not name), **{name: t for name, t in passed if name})
    finally:
        watch.close()
    weights: _Draw = {}
    for name, parameter in model.named_parameters():
        _note(weights, name, parameter)
    _backward(result, loss)
    gradients: _Draw = {}
    for name, parameter in model.named_parameters():
        _note(gradients, name, parameter.grad)
    reached: _Draw = {}
    for position, (name, tensor) in enumerate(drawn):
        _note(reached, name or str(position), tensor.grad)
    return {"outputs": watch.outputs, "cotangents": watch.cotangents, "gradients": gradients, "weights": weights, "inputs": reached}


def _backward(result: Any, loss: str | Callable[..., Any] | None) -> None:
    roots = [tensor for tensor in tensors(result) if tensor.requires_grad] if loss is None else [objective(loss, result)]
    roots = [tensor for tensor in roots if tensor.requires_grad]
    if roots:
        cotangents = [torch.randn_like(tensor) if loss is None else torch.ones_like(tensor) for tensor in roots]
        torch.autograd.backward(roots, cotangents)


def _note(draw: _Draw, key: Any, tensor: Tensor | None) -> None:
    """Mean and second moment in float64. Sparse gradients count with their zeros."""
    if tensor is None or not tensor.numel():
        return
    shape = tuple(tensor.shape)
    entries = tensor.detach().coalesce().values() if tensor.is_sparse else tensor.detach()
    wide = torch.complex128 if entries.is_complex() else torch.float64
    total = complex(entries.sum(dtype=wide).item()).real
    norm = float(torch.linalg.vector_norm(entries, dtype=wide).item()) if entries.numel() else 0.0
    draw[key] = (total / tensor.numel(), norm * norm / tensor.numel(), tensor.numel(), shape)


class _Watch:
    """Hooks that take the statistics at once, so that a later in-place operation cannot change what is measured."""

    def __init__(self, model: nn.Module) -> None:
        self.outputs: _Draw = {}
        self.cotangents: _Draw = {}
        self._calls: dict[str, int] = {}
        self._handles = [module.register_forward_hook(self._hook(path)) for path, module in model.named_modules()]

    def _hook(self, path: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, arguments: Any, result: Any) -> None:
            call = self._calls.get(path, 0)
            self._calls[path] = call + 1
            for index, tensor in enumerate(tensors(result)):
                key = (path, call, index)
                _note(self.outputs, key, tensor)
                if tensor.requires_grad:
                    tensor.register_hook(self._cotangent(key))

        return hook

    def _cotangent(self, key: Key) -> Callable[[Tensor], None]:
        def hook(gradient: Tensor) -> None:
            _note(self.cotangents, key, gradient)

        return hook

    def close(self) -> None:
        """Stop counting calls: the recomputation of a checkpointed block in the backward pass is no new call."""
        for handle in self._handles:
            handle.remove()
