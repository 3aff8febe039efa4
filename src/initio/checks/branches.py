"""Layers side by side: on one input, alone or at the head of chains of one form."""

from __future__ import annotations

from dataclasses import dataclass

from initio.checks.affine import NORMS, PLAIN, Affine, affines, readers
from initio.checks.attention import attentions
from initio.checks.framework import Context
from initio.checks.graph import VIEWS, name

__all__ = ["Chain", "chains", "parallel", "projections"]

MERGES = frozenset({"add", "cat", "stack"})
NARROW = 8
"""Layers with fewer channels are too small for their time to matter."""
FEWEST = 4
"""Chains below this number are no split–transform–merge layer."""


@dataclass(frozen=True, slots=True)
class Chain:
    """Layers one after the other; `form` describes them and what stands between."""

    layers: tuple[Affine, ...]
    form: tuple[object, ...]
    merge: str


def parallel(context: Context, narrow: int = NARROW) -> list[list[Affine]]:
    """Groups of ordinary layers with one input and the same window, each weight used once."""
    uses: dict[int, int] = {}
    groups: dict[object, list[Affine]] = {}
    for layer in affines(context):
        uses[layer.weight.value] = uses.get(layer.weight.value, 0) + 1
        window = (layer.kind, layer.kernel, layer.stride, layer.padding, layer.dilation, layer.bias is None)
        wide = min(layer.inputs, layer.outputs) >= narrow
        ordinary = layer.groups == 1 and not layer.transposed and layer.weight.trainable and len(layer.shape) > 1
        if wide and ordinary and layer.node.function != "multi_head_attention_forward":
            groups.setdefault((_shown(context, layer.entering), *window), []).append(layer)
    return [group for group in groups.values() if len(group) > 1 and all(uses[layer.weight.value] == 1 for layer in group)]


def _shown(context: Context, value: int) -> int:
    """The value behind changes of shape that keep the last axis."""
    node = context.producers.get(value)
    while node is not None and name(node) in ("view", "_unsafe_view", "alias"):
        before, after = (context.record.values[v].shape for v in (node.inputs[0], value))
        if before[-1:] != after[-1:]:
            return value
        value = node.inputs[0]
        node = context.producers.get(value)
    return value


def projections(context: Context) -> list[list[Affine]]:
    """Groups of parallel linear layers that are queries, keys and values of an attention."""
    around = {each.softmax.module for each in attentions(context)}
    queries = {each.query.node.id for each in attentions(context) if each.query is not None}
    found: list[list[Affine]] = []
    for group in parallel(context):
        owners = {layer.where.rpartition(".")[0] for layer in group}
        inside = len(owners) == 1 and any(module == owner or module.startswith(owner + ".") for owner in owners for module in around)
        if group[0].kind == "linear" and len(group) in (2, 3) and (inside or any(layer.node.id in queries for layer in group)):
            found.append(group)
    return found


def chains(context: Context) -> list[list[Chain]]:
    """Groups of at least four chains of one form on one input, which a sum or a concatenation merges."""
    starts = {layer.entering: layer for layer in affines(context)}
    found: list[list[Chain]] = []
    for group in parallel(context, narrow=1):
        forms: dict[object, list[Chain]] = {}
        for layer in group if len(group) >= FEWEST else ():
            chain = _chain(context, layer, starts)
            if chain is not None and len(chain.layers) > 1:
                forms.setdefault(chain.form, []).append(chain)
        found += [each for each in forms.values() if len(each) >= FEWEST]
    return found


def _chain(context: Context, layer: Affine, starts: dict[int, Affine]) -> Chain | None:
    layers, form = [layer], [_form(layer)]
    value = layer.leaving
    for _ in range(32):
        after = readers(context, value)
        if len(after) != 1 or after[0].phase != "forward":
            return None
        node = after[0]
        if name(node) in MERGES or (name(node) == "unsqueeze" and node.function == "stack"):
            return Chain(tuple(layers), tuple(form), name(node))
        following = starts.get(value)
        if following is not None:
            layers.append(following)
            form.append(_form(following))
            value = following.leaving
        elif name(node) in PLAIN | NORMS | VIEWS and node.outputs[0] is not None:
            form.append(name(node))
            value = node.outputs[0]
        else:
            return None
    return None


def _form(layer: Affine) -> object:
    return (layer.kind, layer.shape, layer.stride, layer.padding, layer.dilation, layer.groups, layer.bias is None)
