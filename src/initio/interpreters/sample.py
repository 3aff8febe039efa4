"""Monte Carlo: build and run the real model several times, and measure every activation and gradient."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from initio.capture.modules import Tree
from initio.core.errors import InitioError
from initio.core.estimate import Estimate
from initio.core.inputs import InputSpec, normalise
from initio.interpreters.draws import Progress, draw_input, objective, random_state, seed_all, tensors
from initio.interpreters.places import Placed, Wrap, copied, placed, sums

__all__ = ["Key", "Measurement", "Statistics", "measure"]

Key = tuple[str, int, int]
"""Path of a module, index of its call, index among the floating tensors that the call returned."""


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
    inputs: Any,
    *,
    draws: int = 8,
    loss: str | Callable[..., Any] | None = None,
    train: bool = True,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    wrap: Wrap | None = None,
    progress: bool | None = None,
) -> Measurement:
    """Run forward and backward `draws` times with fresh weights, inputs and cotangents, and average the moments.

    `inputs` is whatever `core.inputs.normalise` reads: shapes, texts, tensors, `InputSpec`s, in a list or by argument name.
    `factory` is called once a draw, so that the author's own initialisation code draws the weights. A built
    module is copied instead: its weights stay as they are, and only inputs and cotangents vary. Without
    a `loss` the cotangent of every floating output is a unit normal, scaled to mean square 1; otherwise "cross_entropy",
    "nll", "mse", "bce_with_logits" (with random targets), "model" (the loss that the model returns) or a function of
    the model's result. `dtype` converts the model and its floating inputs (float64 shows gradients that
    underflow in float32). `wrap` is applied to every drawn model, and returns it sharded, dispatched to devices or wrapped; modules and
    parameters keep the names of the model within, and every rank must call this, with the same seed. `progress` None shows a bar on a
    terminal once a second has passed. Ctrl-C keeps the draws that were finished; the global random state is left as it was.
    """
    if draws < 1:
        raise InitioError("at least one draw", f"{draws} came", where="draws", remedy="Eight give a usable standard error.")
    arguments = normalise(inputs)
    tables: dict[str, _Table] = {name: {} for name in ("outputs", "cotangents", "gradients", "weights", "inputs")}
    done, interrupted, start = 0, False, time.process_time()
    with random_state(), Progress(draws, progress) as bar:
        try:
            for index in range(draws):
                finished = _draw(seed * 1_000_003 + index, lambda: placed(_built(factory, train, dtype), wrap), arguments, loss, dtype)
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


Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def _draw(
    seed: int,
    build: Callable[[], Placed],
    arguments: Arguments,
    loss: str | Callable[..., Any] | None,
    dtype: torch.dtype | None,
) -> dict[str, _Draw]:
    """One draw; where the model itself decides whether its input requires a gradient, the draw is repeated without one."""
    seed_all(seed)
    try:
        return _run(build(), arguments, loss, dtype, True)
    except RuntimeError as error:
        if "requires_grad flags of leaf" not in str(error):
            raise
    seed_all(seed)
    return _run(build(), arguments, loss, dtype, False)


def _built(factory: Callable[[], nn.Module] | nn.Module, train: bool, dtype: torch.dtype | None) -> nn.Module:
    model = copied(factory) if isinstance(factory, nn.Module) else factory()
    if not isinstance(model, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InitioError("a torch.nn.Module from the factory", f"it returned {type(model).__name__}", remedy="Return the model from it.")
    model.zero_grad(set_to_none=True)
    model.train(train)
    return model if dtype is None else model.to(dtype)


def _run(
    placed: Placed, arguments: Arguments, loss: str | Callable[..., Any] | None, dtype: torch.dtype | None, track: bool
) -> dict[str, _Draw]:
    """One step: the statistics of every output, cotangent and gradient, taken at the moment when they exist."""
    device = next((p.device for p in placed.model.parameters() if not p.is_meta), torch.device("cpu"))
    offloaded = placed.offloaded
    drawn: dict[str, Tensor] = {}

    def sample(item: Any) -> Any:
        if isinstance(item, InputSpec):
            leaf = drawn[item.name or str(len(drawn))] = draw_input(item, device, dtype)
            # The model gets a copy of the leaf: it may then write into its input, which a leaf would refuse.
            return leaf.requires_grad_().clone() if track and (leaf.is_floating_point() or leaf.is_complex()) else leaf
        if isinstance(item, (tuple, list)):
            return type(item)(sample(entry) for entry in item)
        if isinstance(item, dict):
            return {key: sample(entry) for key, entry in item.items()}
        return item

    positional, named = sample(arguments[0]), sample(arguments[1])
    # What the graph keeps of offloaded weights would fill the device again.
    elsewhere = torch.autograd.graph.save_on_cpu() if offloaded else contextlib.nullcontext()
    with Statistics(placed.model, placed.call) as watch, elsewhere:
        result = placed.call(*positional, **named)
    parameters = watch.parameters()
    weights: _Draw = {}
    for name, parameter in parameters.items():
        _note(weights, name, offloaded.weights.get(name) if parameter.is_meta else parameter)
    _backward(result, loss)
    gradients: _Draw = {}
    after = watch.parameters()  # fully_shard leaves the root whole until its gradients are reduced
    for name, parameter in parameters.items():
        reduced = after.get(name, parameter).grad
        _note(gradients, name, offloaded.gradients.get(name) if parameter.is_meta else parameter.grad if reduced is None else reduced)
    reached: _Draw = {}
    for name, tensor in drawn.items():
        _note(reached, name, tensor.grad)
    return {"outputs": watch.outputs, "cotangents": watch.cotangents, "gradients": gradients, "weights": weights, "inputs": reached}


def _backward(result: Any, loss: str | Callable[..., Any] | None) -> None:
    roots = [tensor for tensor in tensors(result) if tensor.requires_grad] if loss is None else [objective(loss, result)]
    roots = [tensor for tensor in roots if tensor.requires_grad]
    if roots:
        cotangents = [_cotangent(tensor) if loss is None else torch.ones_like(tensor) for tensor in roots]
        torch.autograd.backward(roots, cotangents)


def _cotangent(output: Tensor) -> Tensor:
    """c √(N / Σ|cᵢ|²) with c of N unit normals: uniform on the sphere of mean square 1 (Muller 1959).

    E[c cᵀ] = I on the sphere as for normals, and gradients are linear in c, so their second moments expect the same. But the factor
    Σ|cᵢ|²/N, which all gradients of a draw would share and whose relative variance is 2/N, does not add to their error: with 2×2
    outputs and 8 draws it alone would be a standard error of 25 %.
    """
    drawn = torch.randn_like(output)
    _, square = sums(drawn.detach())
    return drawn * (output.numel() / square) ** 0.5 if square > 0 else drawn


def _note(draw: _Draw, key: Any, tensor: Tensor | None) -> None:
    """Mean and second moment in float64. Sparse gradients count with their zeros."""
    if tensor is None or not tensor.numel():
        return
    shape = tuple(tensor.shape)
    entries = tensor.detach().coalesce().values() if tensor.is_sparse else tensor.detach()
    total, square = sums(entries)
    draw[key] = (total / tensor.numel(), square / tensor.numel(), tensor.numel(), shape)


class Statistics:
    """Takes the statistics of every module call at once, so that a later in-place operation cannot change what is measured.

    Ends with the forward pass: the recomputation of a checkpointed block in the backward pass is no new call. The paths are those of a
    recording, which knows modules in plain lists and modules made during the call, too; what `outer` has around the model has none.
    """

    def __init__(self, model: nn.Module, outer: nn.Module | None = None) -> None:
        self._around = {id(module) for module in (outer or model).modules()} - {id(module) for module in model.modules()}
        self.outputs: _Draw = {}
        self.cotangents: _Draw = {}
        self._tree = Tree(model)
        self._counts: dict[str, int] = {}
        self._stack: list[str] = []
        self._made: list[nn.Module] = []

    def __enter__(self) -> Statistics:
        original = self._original = nn.Module.__call__

        def call(module: nn.Module, *arguments: Any, **named: Any) -> Any:
            if id(module) in self._around:
                return original(module, *arguments, **named)
            path = self._path(module)
            index = self._counts.get(path, 0)
            self._counts[path] = index + 1
            self._stack.append(path)
            try:
                result = original(module, *arguments, **named)
            finally:
                self._stack.pop()
            self.finish(path, index, result)
            return result

        nn.Module.__call__ = call
        return self

    def __exit__(self, *_: object) -> None:
        nn.Module.__call__ = self._original

    def parameters(self) -> dict[str, Tensor]:
        """First name → parameter, once each."""
        found: dict[int, tuple[str, Tensor]] = {}
        for name, _, _, tensor in self._tree.tensors("parameters"):
            found.setdefault(id(tensor), (name, tensor))
        return dict(found.values())

    def _path(self, module: nn.Module) -> str:
        path = self._tree.paths.get(id(module))
        if path is None:
            parent = self._stack[-1] if self._stack else ""
            path = self._tree.paths[id(module)] = f"{parent}.~{type(module).__name__}" if parent else f"~{type(module).__name__}"
            self._made.append(module)
        return path

    def finish(self, path: str, call: int, result: Any) -> None:
        """Note what a call returned, and listen for the cotangents that arrive there."""
        for index, tensor in enumerate(tensors(result)):
            key = (path, call, index)
            _note(self.outputs, key, tensor)
            if tensor.requires_grad:
                tensor.register_hook(self._hook(key))

    def _hook(self, key: Key) -> Callable[[Tensor], None]:
        def hook(gradient: Tensor) -> None:
            _note(self.cotangents, key, gradient)

        return hook
