"""Layers of one window on one input: one layer with all their outputs."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from initio.core.record import Call
from initio.rewrite.change import Change
from initio.rewrite.layers import Packed, Piece, Spec
from initio.rewrite.result import State
from initio.rewrite.scene import Scene

__all__ = ["branches", "groups", "owner"]

ATTENTION = ("aten._softmax.", "aten._safe_softmax.", "aten._scaled_dot_product")


def groups(scene: Scene) -> Iterator[list[tuple[str, Any, Call]]]:
    """Free layers with equal window, dtype and training on the same value, at least two."""
    found: dict[object, list[tuple[str, Any, Call]]] = {}
    for path, layer, call in scene.layers():
        found.setdefault(call.inputs[0], []).append((path, layer, call))
    for several in found.values():
        apart: dict[object, list[tuple[str, Any, Call]]] = {}
        for path, layer, call in several if len(several) > 1 else ():
            if scene.free(path):
                weight = layer.weight
                kind = (Spec.of(layer), tuple(weight.shape[1:]), layer.bias is None, weight.dtype, weight.device)
                trained = (weight.requires_grad, layer.bias is None or layer.bias.requires_grad)
                apart.setdefault((*kind, *trained), []).append((path, layer, call))
        for group in apart.values():
            if len(group) > 1:
                yield group


def owner(scene: Scene, group: list[tuple[str, Any, Call]]) -> Call:
    """The innermost call that all calls of a group run in."""
    call = scene.record.calls[group[0][2].parent]
    while not all(scene.within(each.id, call.id) for _, _, each in group):
        call = scene.record.calls[call.parent]
    return call


def branches(scene: Scene) -> Iterator[Change]:
    """One change for each group."""
    for group in groups(scene):
        spec = Spec.of(group[0][1])
        if spec.groups == 1 and _trained_alike(group[0][1]):
            yield _change(scene, group, spec)


def _trained_alike(layer: Any) -> bool:
    return layer.bias is None or layer.bias.requires_grad == layer.weight.requires_grad


def _change(scene: Scene, group: list[tuple[str, Any, Call]], spec: Spec) -> Change:
    paths = tuple(path for path, _, _ in group)
    layers = [layer for _, layer, _ in group]
    sizes = [layer.weight.shape[0] for layer in layers]
    kinds = ["weight"] if layers[0].bias is None else ["weight", "bias"]

    def before(x: Tensor, old: State) -> tuple[Tensor, ...]:
        return tuple(spec(x, old[f"{path}.weight"], old.get(f"{path}.bias")) for path in paths)

    def fold(old: State) -> State:
        return {kind: torch.cat([old[f"{path}.{kind}"] for path in paths]) for kind in kinds}

    def unfold(new: State) -> State:
        parts = {kind: new[kind].split(sizes) for kind in kinds}
        return {f"{path}.{kind}": parts[kind][i] for i, path in enumerate(paths) for kind in kinds}

    def apply(model: nn.Module) -> None:
        made = packed()
        for index, path in enumerate(paths):
            old: Any = model.get_submodule(path)
            piece = Piece(made, index).train(old.training)
            for name in (*old.__constants__, "kernel_size", "dilation", "padding"):
                if hasattr(old, name) and not hasattr(piece, name):
                    setattr(piece, name, getattr(old, name))
            model.set_submodule(path, piece)

    def packed() -> Packed:
        tensors = fold(
            {f"{path}.{kind}": getattr(layer, kind).detach() for path, layer in zip(paths, layers, strict=True) for kind in kinds}
        )
        return Packed(spec, tensors["weight"], tensors.get("bias"), sizes, layers[0].weight.requires_grad)

    home = owner(scene, group)
    form = ("branches", spec, tuple(sizes), tuple(scene.record.values[group[0][2].inputs[0]].shape), layers[0].bias is None)
    return Change(
        "qkv" if spec.rank == 0 and _feeds_attention(scene, home, group) else "branches", paths, f"{paths[0]}.packed",
        tuple(f"{path}.{kind}" for path in paths for kind in kinds), packed(), before, fold, unfold, apply, paths[0], form,
    )  # fmt: skip


def _feeds_attention(scene: Scene, home: Call, group: list[tuple[str, Any, Call]]) -> bool:
    """Whether the innermost call around two or three layers computes an attention."""
    inside = (node for node in scene.record.nodes if scene.within(node.call, home.id))
    return len(group) in (2, 3) and any(node.op.startswith(ATTENTION) or node.function == "scaled_dot_product_attention" for node in inside)
