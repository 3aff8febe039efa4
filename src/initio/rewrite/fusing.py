"""`fuse`: find, prove, time, replace."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportPrivateUsage=false

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from initio.capture.rng import RandomState
from initio.core.errors import InitioError
from initio.core.inputs import normalise
from initio.rewrite.branches import branches
from initio.rewrite.change import Change, Timer, difference, pulled_back, speed_up
from initio.rewrite.folding import folds
from initio.rewrite.paths import paths
from initio.rewrite.proof import Run, told
from initio.rewrite.result import Fused, Left, Proof, Rewrite, State, StateMap
from initio.rewrite.scene import Scene, drawn

__all__ = ["KINDS", "fuse"]

KINDS = ("conv-bn", "linear-linear", "chains", "branches", "qkv")
STAGES = (("conv-bn", "linear-linear"), ("chains",), ("branches", "qkv"))
TOLERANCE = 1e-9
"""Largest relative difference in float64 that counts as equal: far above the rounding of sums, far below any mistake."""
PASSES = 8
LEAST = 1.05
"""Speed-ups below this are not told from noise."""


def fuse(
    model: nn.Module,
    inputs: Any,
    *,
    kinds: Sequence[str] = KINDS,
    least: float = LEAST,
    timer: Timer = speed_up,
    tolerance: float = TOLERANCE,
) -> Fused:
    """A copy of the model in which layers are joined that compute the same as one, each rewrite proven and timed.

    * `conv-bn`: a convolution (or linear layer) and the batch norm behind it; in evaluation mode.
    * `linear-linear`: two linear layers with nothing between; in evaluation mode.
    * `chains`: parallel chains of one form that are added or concatenated, as grouped layers or `SplitTransformMerge`.
    * `branches` and `qkv`: layers of one window on one input, as one wider layer.

    A rewrite is kept if its outputs and its gradients (of its input and of the old parameters) equal the old ones in float64 with the
    model's own weights and a real input, to `tolerance` of the largest entry, and if `timer`, called with the part before and the
    part after, gives more than `least`: in training mode of forward and backward, in evaluation mode of forward. All kept ones together
    are proven once more on the whole model. Modules with hooks, shared or parametrized weights, several calls, dropout in a
    path, or batch statistics are left alone; `left` names them. The given model, its mode and the random state stay as they are.

    Args:
        model: a built model with weights; its mode decides.
        inputs: as for `initio.analyze`.
        kinds: which rewrites to try.
        least: the least speed-up that is worth a rewrite.
        timer: measures a speed-up; the default takes the shortest of interleaved runs.
        tolerance: of the proofs.

    Raises:
        InitioError: a model without weights or that fails on the inputs, an unknown kind.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU()).eval()
        >>> result = fuse(model, "2x3x8x8", timer=lambda before, after: 2.0)
        >>> [(r.kind, r.modules, r.kept) for r in result.rewrites]
        [('conv-bn', ('0', '1'), True)]
        >>> sorted(result.model.state_dict())
        ['0.bias', '0.weight']
    """
    _sound(model, kinds)
    args, kwargs = normalise(inputs)
    with RandomState():
        return _Fusion(model, args, kwargs, tuple(kinds), least, timer, tolerance).run()


def _sound(model: nn.Module, kinds: Sequence[str]) -> None:
    if not isinstance(model, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]  # users come without types too
        remedy = "Build it first: fuse(Model(), inputs)."
        raise InitioError("a built model", f"got {type(model).__name__}", where="model", remedy=remedy)
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise InitioError(f"kinds out of {', '.join(KINDS)}", f"{', '.join(unknown)} came", where="kinds", remedy="Leave it out for all.")
    if empty := next((name for name, p in model.named_parameters() if p.is_meta), None):
        remedy = "Give it weights first: a rewrite is proven with them."
        raise InitioError("a model with weights", f"{empty} is on the meta device", where="model", remedy=remedy)


class _Fusion:
    """One run: `copy` is rewritten stage by stage."""

    def __init__(
        self,
        model: nn.Module,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        kinds: tuple[str, ...],
        least: float,
        timer: Timer,
        tolerance: float,
    ) -> None:
        self.original, self.kinds, self.least, self.timer, self.tolerance = model, kinds, least, timer, tolerance
        self.args, self.kwargs = args, kwargs
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        self.real = drawn(tuple(args), device), drawn(dict(kwargs), device)
        self.copy = _copied(model)
        self.judged: dict[tuple[str, tuple[str, ...]], Rewrite] = {}
        self.left: dict[str, Left] = {}
        self.ratios: dict[Any, float] = {}
        self.changes: list[Change] = []
        self.proof: Proof | None = None

    def run(self) -> Fused:
        """Every stage until nothing new is found."""
        for stage in STAGES:
            if set(stage) & set(self.kinds):
                for _ in range(PASSES):
                    if not self._pass(stage):
                        break
        for name, parameter in self.original.named_parameters():
            if parameter._backward_hooks:
                path, _, own = name.rpartition(".")
                self.left.setdefault(path, Left(path, f"a hook on {own} stays with the given model: tensors are copied without hooks"))
        left = [each for each in self.left.values() if not any(r.kept and each.path in r.modules for r in self.judged.values())]
        maps: list[StateMap] = [(change.forward_map, change.backward_map) for change in self.changes]
        keys = tuple(self.original.state_dict())
        return Fused(self.copy, tuple(self.judged.values()), tuple(left), self.proof, tuple(maps), keys)

    def _pass(self, stage: tuple[str, ...]) -> bool:
        """Apply what is found, proven and faster; whether anything was."""
        scene = Scene.look(self.copy, self.args, self.kwargs, dict(self.original.named_modules()))
        found = [c for c in self._found(stage, scene) if c.kind in self.kinds and (c.kind, c.modules) not in self.judged]
        self.left = {**scene.left, **self.left}
        entered = self._entering([change.entering for change in found]) if found else {}
        good = [change for change in found if self._judge(change, entered[change.entering])]
        if not good:
            return False
        if self._applied(good):
            for change in good:
                reason = self._applied([change])
                if reason:
                    key = (change.kind, change.modules)
                    self.judged[key] = dataclasses.replace(self.judged[key], kept=False, reason=reason)
        return True

    def _found(self, stage: tuple[str, ...], scene: Scene) -> Iterator[Change]:
        if "chains" in stage:
            return paths(scene, self._arguments)
        return branches(scene) if "branches" in stage else folds(scene)

    def _judge(self, change: Change, x: Tensor) -> bool:
        state = self.copy.state_dict(keep_vars=True)
        key = (change.form, self.copy.training)
        ratio, reason = None, ""
        try:
            proof = change.prove(x, state)
            if not proof.worst <= self.tolerance:
                reason = f"differs by {proof.worst:.1e}"
            else:
                if key not in self.ratios:
                    self.ratios[key] = change.speed_up(x, state, self.copy.training, self.timer)
                ratio = self.ratios[key]
                reason = "" if ratio > self.least else f"not faster ({ratio:.2f}x)"
        except (RuntimeError, NotImplementedError) as error:  # no kernel for float64, no memory
            proof = Proof(math.nan, math.nan, math.nan)
            reason = f"could not be proven: {told(error)}"
        self.judged[change.kind, change.modules] = Rewrite(change.kind, change.modules, change.into, proof, ratio, not reason, reason)
        return not reason

    def _applied(self, changes: list[Change]) -> str:
        """Apply changes and prove the whole model; everything as before, and why, if that fails."""
        trial = _copied(self.copy)
        try:
            _ = self._reference
        except Exception as error:
            return f"the model does not run in float64: {told(error)}"
        try:
            for change in changes:
                change.apply(trial)
            proof = self._whole(trial, [*self.changes, *changes])
        except Exception as error:  # the model's own code may not bear the rewrite, such as a view that needs contiguous memory
            return f"the model fails with it: {told(error)}"
        if not proof.worst <= self.tolerance:
            return f"with it, the whole model differs by {proof.worst:.1e}"
        self.copy, self.proof = trial, proof
        self.changes += changes
        return ""

    @functools.cached_property
    def _reference(self) -> Run:
        """The given model's run in float64."""
        return Run(_copied(self.original).double(), *self._doubles())

    def _doubles(self) -> tuple[Any, Any]:
        device = next((p.device for p in self.original.parameters()), torch.device("cpu"))
        return drawn(self.real[0], device, torch.float64), drawn(self.real[1], device, torch.float64)

    def _whole(self, trial: nn.Module, changes: list[Change]) -> Proof:
        """Outputs and gradients of the original against those of the rewritten model, in float64."""

        def fold(state: State) -> State:
            for change in changes:
                state = change.forward_map(state)
            return state

        first = self._reference
        rewritten = _copied(trial).double()
        rewritten.load_state_dict({name: tensor.detach() for name, tensor in fold(dict(first.state)).items()})  # folded in float64 too
        second = Run(rewritten, *self._doubles())
        old = {k: t.clone().requires_grad_(t.is_floating_point()) for k, t in first.state.items()}
        leaves = [old[name] for name in first.gradients]
        back = pulled_back(fold, old, {k: g for k, g in second.gradients.items() if k in fold(old)}, leaves)
        both = [name for name in first.buffers if name in second.buffers]
        return Proof(
            difference(
                [*second.outputs, *(second.buffers[name] for name in both)], [*first.outputs, *(first.buffers[name] for name in both)]
            ),
            difference(second.inputs, first.inputs),
            difference(back, list(first.gradients.values())),
        )

    def _entering(self, names: list[str]) -> dict[str, Tensor]:
        """The tensor that each module reads in a real step."""
        found: dict[str, Tensor] = {}

        def note(name: str, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            found[name] = next(iter((*args, *kwargs.values()))).detach().clone()

        self._watched(names, note)
        return found

    def _arguments(self, names: list[str]) -> dict[str, dict[str, Any]]:
        """The arguments, by name, that each module is called with in a real step."""
        found: dict[str, dict[str, Any]] = {}

        def note(name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            found[name] = dict(inspect.signature(module.forward).bind(*args, **kwargs).arguments)

        self._watched(names, note)
        return found

    def _watched(self, names: list[str], note: Callable[[str, nn.Module, tuple[Any, ...], dict[str, Any]], None]) -> None:
        """Run a copy of the model; `note` sees the arguments of the named modules.

        Raises:
            InitioError: the model fails on real tensors.
        """
        trial = _copied(self.copy)
        for name in names:
            trial.get_submodule(name).register_forward_pre_hook(functools.partial(note, name), with_kwargs=True)
        try:
            with torch.no_grad():
                trial(*copy.deepcopy(self.real[0]), **copy.deepcopy(self.real[1]))
        except Exception as error:
            came = f"on real tensors it raised {type(error).__name__}: {error}"
            remedy = "Give inputs that the model runs on, such as ids below its vocabulary: input_ids=2x128:int(1000)."
            raise InitioError("a model that runs on these inputs", came, where="inputs", remedy=remedy) from error


def _copied(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:
        came = f"copy.deepcopy raised {type(error).__name__}: {error}"
        remedy = "Drop tensors with a graph from its attributes, or give a model that can be copied."
        raise InitioError("a model that can be copied", came, where="model", remedy=remedy) from error
