"""Two affine maps one after the other are one: a convolution and a batch norm in evaluation, two linear layers."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from initio.rewrite.change import Change
from initio.rewrite.layers import Spec
from initio.rewrite.result import State
from initio.rewrite.scene import Scene

__all__ = ["folds"]

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
CLOSE = 1e-5
"""Relative difference up to which folded weights count as those of given layers; half-precision and float32 sums stay below it."""


def folds(scene: Scene) -> Iterator[Change]:
    """One change for each pair in which only the second layer reads the first one's output; no module is in two of them."""
    taken: set[str] = set()
    kinds = (*NORMS, nn.Linear)
    entered = {call.inputs[0]: call for call in scene.record.calls if call.inputs and isinstance(scene.modules.get(call.module), kinds)}
    for path, layer, call in scene.layers():
        after = entered.get(call.outputs[0])
        if after is None or path in taken or after.module in taken or not scene.only_in(call.outputs[0], after):
            continue
        second: Any = scene.modules[after.module]
        linear = isinstance(second, nn.Linear)
        if linear and not isinstance(layer, nn.Linear):
            continue
        rank, dims = Spec.of(layer).rank, len(scene.record.values[call.outputs[0]].shape)
        if not linear and dims != rank + 2:
            continue
        if not (scene.all_free([path, after.module])):
            continue
        if linear and (layer.training or second.training):
            scene.leave(after.module, "a linear layer behind a linear one trains otherwise than their product; folded in evaluation mode")
        elif linear:
            taken |= {path, after.module}
            yield _linear(scene, path, layer, after.module, second)
        elif second.training:
            scene.leave(after.module, "a batch norm in training mode depends on the batch; folded in evaluation mode")
        elif second.running_mean is None or second.running_var is None:
            scene.leave(after.module, "a batch norm without running statistics depends on the batch")
        else:
            taken |= {path, after.module}
            yield _norm(scene, path, layer, after.module, second)


def _norm(scene: Scene, path: str, layer: Any, behind: str, norm: Any) -> Change:
    spec, eps = Spec.of(layer), norm.eps
    state = {f"{p}.{k}": v.detach().clone() for p, m in ((path, layer), (behind, norm)) for k, v in m.state_dict().items()}

    def scale(state: State) -> Tensor:
        inverse = (state[f"{behind}.running_var"] + eps).rsqrt()
        return state[f"{behind}.weight"] * inverse if norm.affine else inverse

    def before(x: Tensor, old: State) -> tuple[Tensor, ...]:
        y = spec(x, old[f"{path}.weight"], old.get(f"{path}.bias"))
        weight, bias = old.get(f"{behind}.weight"), old.get(f"{behind}.bias")
        return (
            F.batch_norm(y, old[f"{behind}.running_mean"].detach(), old[f"{behind}.running_var"].detach(), weight, bias, False, 0.0, eps),
        )

    def fold(old: State) -> State:
        # Running statistics receive no gradient in the original either.
        held = {name: t.detach() if "running" in name else t for name, t in old.items()}
        s = scale(held)
        shift = held[f"{path}.bias"] - held[f"{behind}.running_mean"] if layer.bias is not None else -held[f"{behind}.running_mean"]
        weight = held[f"{path}.weight"]
        return {"weight": weight * s.reshape(-1, *(1,) * (weight.dim() - 1)), "bias": shift * s + held.get(f"{behind}.bias", 0.0)}

    def unfold(new: State) -> State:
        given = {name: tensor.to(new["weight"]) if tensor.is_floating_point() else tensor for name, tensor in state.items()}
        if _equal(fold(given), new):
            return given
        statistics = {name: tensor for name, tensor in given.items() if name.startswith(f"{behind}.")}
        s = scale(statistics)
        wide = s.reshape(-1, *(1,) * (new["weight"].dim() - 1))
        if bool(((wide == 0) & (new["weight"] != 0)).any()):
            raise ValueError(f"{behind} has scales of exactly 0, behind which {path} cannot give the weights of this state dict")
        weight = torch.where(wide == 0, given[f"{path}.weight"], new["weight"] / wide)
        result = {f"{path}.weight": weight, **statistics}
        free = torch.where(s == 0, torch.zeros_like(s), (new["bias"] - statistics.get(f"{behind}.bias", torch.zeros_like(s))) / s)
        if layer.bias is not None:
            result[f"{path}.bias"] = free + statistics[f"{behind}.running_mean"]
        elif norm.affine:
            result[f"{behind}.bias"] = new["bias"] + statistics[f"{behind}.running_mean"] * s
        else:
            result[f"{behind}.running_mean"] = -free
        return result

    def apply(model: nn.Module) -> None:
        model.set_submodule(path, _like(layer, state, fold))
        model.set_submodule(behind, nn.Identity().train(norm.training))

    x = scene.record.values[scene.calls[path][0].inputs[0]].shape
    form = ("conv-bn", spec, tuple(layer.weight.shape), tuple(x), layer.bias is None, norm.affine)
    return Change(
        "conv-bn", (path, behind), path, tuple(state), _like(layer, state, fold), before, fold, unfold, apply, path, form
    )  # fmt: skip


def _linear(scene: Scene, path: str, first: Any, behind: str, second: Any) -> Change:
    given = {f"{p}.{k}": v.detach().clone() for p, m in ((path, first), (behind, second)) for k, v in m.state_dict().items()}
    biased = first.bias is not None or second.bias is not None

    def before(x: Tensor, old: State) -> tuple[Tensor, ...]:
        hidden = F.linear(x, old[f"{path}.weight"], old.get(f"{path}.bias"))
        return (F.linear(hidden, old[f"{behind}.weight"], old.get(f"{behind}.bias")),)

    def fold(old: State) -> State:
        weight = old[f"{behind}.weight"]
        made = {"weight": weight @ old[f"{path}.weight"]}
        if biased:
            bias = weight @ old[f"{path}.bias"] if f"{path}.bias" in old else weight.new_zeros(weight.shape[0])
            made["bias"] = bias + old[f"{behind}.bias"] if f"{behind}.bias" in old else bias
        return made

    def unfold(new: State) -> State:
        old = {name: tensor.to(new["weight"]) for name, tensor in given.items()}
        if _equal(fold(old), new):
            return old
        # The smallest change of one factor that accounts for the change of the product.
        wanted = {name: tensor.double() for name, tensor in new.items()}
        made = {name: tensor.double() for name, tensor in old.items()}
        a, b = f"{path}.weight", f"{behind}.weight"
        gap = wanted["weight"] - made[b] @ made[a]
        if made[a].shape[0] < made[a].shape[1] and made[b].shape[0] <= made[b].shape[1]:
            made[a] = made[a] + torch.linalg.pinv(made[b]) @ gap
        else:
            made[b] = made[b] + gap @ torch.linalg.pinv(made[a])
        if biased:
            gap = wanted["bias"] - fold(made)["bias"]
            if f"{behind}.bias" in made:
                made[f"{behind}.bias"] = made[f"{behind}.bias"] + gap
            else:
                made[f"{path}.bias"] = made[f"{path}.bias"] + torch.linalg.pinv(made[b]) @ gap
        made = {name: tensor.to(new["weight"].dtype) for name, tensor in made.items()}
        if not _close(fold({k: v.double() for k, v in made.items()}), new):
            raise ValueError(
                f"no weights of {path} and {behind} have the product at {path}: its rank is more than {first.weight.shape[0]}, the width between"
            )
        return made

    def apply(model: nn.Module) -> None:
        model.set_submodule(path, _like(first, given, fold))
        model.set_submodule(behind, nn.Identity().train(second.training))

    x = scene.record.values[scene.calls[path][0].inputs[0]].shape
    form = ("linear-linear", tuple(first.weight.shape), second.out_features, tuple(x), biased)
    return Change("linear-linear", (path, behind), path, tuple(given), _like(first, given, fold), before, fold, unfold, apply, path, form)


def _like(layer: Any, state: State, fold: Any) -> nn.Module:
    """A layer with the window of another and folded weights."""
    folded: State = {name: tensor.detach() for name, tensor in fold(state).items()}
    weight = folded["weight"]
    place = {"device": weight.device, "dtype": weight.dtype}
    if isinstance(layer, nn.Linear):
        made: nn.Module = nn.Linear(weight.shape[1], weight.shape[0], "bias" in folded, **place)
    else:
        window = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups)
        made = type(layer)(layer.in_channels, layer.out_channels, *window, bias=True, **place)
    made.load_state_dict(folded)
    return made.requires_grad_(layer.weight.requires_grad).train(layer.training)


def _equal(found: State, expected: State) -> bool:
    return all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def _close(found: State, expected: State) -> bool:
    gaps = (
        (found[name].double() - tensor.double()).abs().max() / tensor.double().abs().max().clamp_min(1e-30)
        for name, tensor in expected.items()
    )
    return all(float(gap) <= CLOSE for gap in gaps)
