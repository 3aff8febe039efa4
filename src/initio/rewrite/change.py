"""One possible rewrite, its proof on the model's own weights in float64, and its timing."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from initio.rewrite.result import Proof, State

__all__ = ["ROUNDS", "SECONDS", "Change", "Timer", "difference", "pulled_back", "speed_up"]

SECONDS = 0.3
"""Time that the timing of one rewrite may take; at least `ROUNDS` rounds are made."""
ROUNDS = 5
Outputs = tuple[Tensor, ...]
Timer = Callable[[Callable[[], object], Callable[[], object]], float]
"""Gives the time of the first over the time of the second."""


@dataclass(frozen=True)
class Change:
    """A rewrite that is possible.

    `module` stands at the path `into` afterwards; `before` computes from an input and the tensors named `old` what it returns.
    `fold` gives its tensors (without the path) from the old ones, by operations that autograd can differentiate; `unfold` goes back.
    `entering` is the module whose input is the rewrite's.
    """

    kind: str
    modules: tuple[str, ...]
    into: str
    old: tuple[str, ...]
    module: nn.Module
    before: Callable[[Tensor, State], Outputs]
    fold: Callable[[State], State]
    unfold: Callable[[State], State]
    apply: Callable[[nn.Module], None]
    entering: str
    form: tuple[Any, ...] = ()

    @property
    def prefix(self) -> str:
        """What the names of the new tensors begin with."""
        return f"{self.into}." if self.into else ""

    def forward_map(self, state: State) -> State:
        """The state dict after the rewrite, from the one before."""
        rest, mine = _apart(state, self.old, f"{self.kind} of {', '.join(self.modules)}")
        return rest | {self.prefix + name: tensor for name, tensor in self.fold(mine).items()}

    def backward_map(self, state: State) -> State:
        """The state dict before the rewrite, from the one after."""
        names = tuple(self.prefix + name for name in self.module.state_dict())
        rest, mine = _apart(state, names, f"{self.kind} at {self.into}")
        return rest | self.unfold({name[len(self.prefix) :]: tensor for name, tensor in mine.items()})

    def prove(self, x: Tensor, state: Mapping[str, Tensor]) -> Proof:
        """Outputs, and gradients of the input and of the old parameters, before against after, in float64."""
        old = {name: _double(state[name]) for name in self.old}
        new = {name: tensor.detach() for name, tensor in self.fold(old).items()}
        module = copy.deepcopy(self.module).double()
        x = _double(x)
        ours = [tensor.requires_grad_(tensor.is_floating_point()) for tensor in (x.clone(), *old.values(), x.clone(), *new.values())]
        own, other = ours[: len(old) + 1], ours[len(old) + 1 :]
        expected = self.before(own[0], old)
        found = _tuple(functional_call(module, new, (other[0],)))
        cotangents = [torch.randn_like(y) for y in expected]
        ins, outs = [t for t in own if t.requires_grad], [t for t in other if t.requires_grad]
        wanted = torch.autograd.grad(expected, ins, cotangents, allow_unused=True, materialize_grads=True)
        got = torch.autograd.grad(found, outs, cotangents, allow_unused=True, materialize_grads=True)
        leaves = ins[1:]
        gradients = dict(zip([name for name, t in new.items() if t.requires_grad], got[1:], strict=True))
        back = pulled_back(self.fold, old, gradients, leaves)
        return Proof(difference(found, expected), difference([got[0]], [wanted[0]]), difference(back, wanted[1:]))

    def speed_up(self, x: Tensor, state: Mapping[str, Tensor], training: bool, timer: Timer) -> float:
        """Time before over time after: of the forward pass, and of the backward pass too in training."""
        old = {
            name: state[name].detach().clone().requires_grad_(state[name].requires_grad or state[name].is_floating_point())
            for name in self.old
        }
        module = copy.deepcopy(self.module)
        module.load_state_dict({name: tensor.detach() for name, tensor in self.fold(old).items()})
        source = x.detach().clone().requires_grad_(training)

        def run(step: Callable[[], Outputs], leaves: Sequence[Tensor]) -> None:
            with torch.set_grad_enabled(training):
                outputs = step()
                if training:
                    torch.autograd.grad(outputs, leaves, [torch.ones_like(y) for y in outputs], allow_unused=True)

        mine = [source, *module.parameters()]
        theirs = [source, *(t for t in old.values() if t.requires_grad)]
        return timer(lambda: run(lambda: self.before(source, old), theirs), lambda: run(lambda: _tuple(module(source)), mine))


def pulled_back(fold: Callable[[State], State], old: State, gradients: Mapping[str, Tensor], leaves: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of the old tensors from those of the new ones: the transposed Jacobian of the map between them."""
    made = fold(old)
    names = [name for name in gradients if made[name].requires_grad]
    if not names or not leaves:
        return [torch.zeros_like(leaf) for leaf in leaves]
    outputs = [made[name] for name in names]
    found = torch.autograd.grad(outputs, leaves, [gradients[name] for name in names], allow_unused=True, materialize_grads=True)
    return list(found)


FLOOR = 1e-6
"""Share of the largest entry of all tensors below which one counts as rounding, such as the gradient of a key's bias."""


def difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """max |found − expected| / max |expected| of each pair, the largest; infinite where shapes differ or an entry is NaN.

    The scale of a pair is at least `FLOOR` of the largest entry of all: where a gradient is 0 but for rounding, its own scale says nothing.
    """
    if len(found) != len(expected) or any(a.shape != b.shape for a, b in zip(found, expected, strict=True)):
        return float("inf")
    pairs = [(a.detach(), b.detach()) for a, b in zip(found, expected, strict=True) if b.numel()]
    scales = [float(b.abs().max()) for _, b in pairs]
    least = max(FLOOR * max(scales, default=0.0), 1e-300)
    gaps = [float((a - b).abs().max()) / max(scale, least) for (a, b), scale in zip(pairs, scales, strict=True)]
    return float("inf") if any(gap != gap for gap in gaps) else max(gaps, default=0.0)


def speed_up(before: Callable[[], object], after: Callable[[], object]) -> float:
    """The shortest of interleaved runs of each, as a ratio."""
    times: tuple[list[float], list[float]] = ([], [])
    for run in (before, after):
        run()
    start = time.perf_counter()
    while len(times[0]) < ROUNDS or (time.perf_counter() - start < SECONDS and len(times[0]) < 200):
        for own, run in zip(times, (before, after), strict=True):
            begin = time.perf_counter()
            run()
            own.append(time.perf_counter() - begin)
    return min(times[0]) / max(min(times[1]), 1e-9)


def _double(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().clone()
    return tensor.double() if tensor.is_floating_point() else tensor


def _tuple(result: Any) -> Outputs:
    return result if isinstance(result, tuple) else (result,)


def _apart(state: State, names: Sequence[str], where: str) -> tuple[State, State]:
    if missing := [name for name in names if name not in state]:
        raise KeyError(f"the state dict lacks {', '.join(missing)} ({where})")
    return {name: t for name, t in state.items() if name not in names}, {name: state[name] for name in names}
