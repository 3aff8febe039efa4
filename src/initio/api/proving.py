"""Whether two builds of a model compute the same: equal outputs for equal weights, inputs and random draws."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from initio.core.inputs import InputSpec, normalise
from initio.interpreters.draws import draw_input, random_state, seed_all, tensors

__all__ = ["Outcome", "difference", "outcome"]

TOLERANCE = 1e-4
"""Of the rms of an output: float32 rounding of a sum in another order stays far below."""


class Outcome:
    """What a model returned in one mode, with its state (copied), or the error that it raised."""

    def __init__(self, outputs: list[Tensor], state: dict[str, Tensor], error: str = "") -> None:
        self.outputs = outputs
        self.state = state
        self.error = error


def outcome(build: Any, inputs: Any, *, train: bool, seed: int = 0, state: dict[str, Tensor] | None = None) -> Outcome:
    """Build the model, take over the entries of `state` that it has too, and run it once.

    Seeds are set before building and before running; the random state of the caller is put back.
    """
    with random_state(), torch.no_grad():
        seed_all(seed)
        if isinstance(build, nn.Module):
            model = build
        else:
            built: Callable[[], nn.Module] = build
            model = built()
        own = model.state_dict()
        if state is not None:
            for name, tensor in own.items():
                if name in state and state[name].shape == tensor.shape:
                    tensor.copy_(state[name])
        kept = {name: tensor.detach().clone() for name, tensor in own.items()}
        model.train(train)
        seed_all(seed + 1)
        args, kwargs = normalise(inputs)
        device = next((p.device for p in model.parameters()), torch.device("cpu"))

        def sample(item: Any) -> Any:
            if isinstance(item, InputSpec):
                return draw_input(item, device, None)
            if isinstance(item, (tuple, list)):
                return type(item)(sample(entry) for entry in item)
            return {key: sample(entry) for key, entry in item.items()} if isinstance(item, dict) else item

        drawn = [sample(item) for item in args], {name: sample(item) for name, item in kwargs.items()}
        seed_all(seed + 2)
        try:
            result = model(*drawn[0], **drawn[1])
        except Exception as error:
            return Outcome([], kept, f"{type(error).__name__}: {error}")
        return Outcome([tensor.detach().clone() for tensor in tensors(result)], kept)


def difference(before: Outcome, after: Outcome, *, same_state: bool) -> str:
    """Why the two are not the same; empty where they are, and where the first returned no tensor to compare with."""
    if before.error or after.error:
        return f"there is no output to compare: {before.error or after.error}"
    if not before.outputs:
        return ""
    if same_state and (names := set(before.state) ^ set(after.state)):
        return f"the state dict changes: {sorted(names)[0]}"
    if len(before.outputs) != len(after.outputs):
        return f"{len(before.outputs)} outputs became {len(after.outputs)}"
    for number, (one, two) in enumerate(zip(before.outputs, after.outputs, strict=True)):
        if one.shape != two.shape or one.dtype != two.dtype:
            return f"output {number} was {one.dtype} of shape {tuple(one.shape)}, and is {two.dtype} of {tuple(two.shape)}"
        wide = torch.complex128 if one.is_complex() else torch.float64
        a, b = one.to(wide), two.to(wide)
        both = a.isfinite() & b.isfinite()
        if not bool((a.isfinite() == b.isfinite()).all()):
            return f"output {number} is finite in one and not in the other"
        gap = float((a - b)[both].abs().max()) if bool(both.any()) else 0.0
        scale = float(a[both].abs().square().mean().sqrt()) if bool(both.any()) else 0.0
        if gap > TOLERANCE * max(scale, 1e-12):
            return f"output {number} differs by {gap:.3g} (rms {scale:.3g})"
    return ""
