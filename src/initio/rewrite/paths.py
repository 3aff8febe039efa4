"""Changes of parallel chains: the proof's two sides, the maps of their weights, and the new forward of the module that holds them."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from initio.nn import SplitTransformMerge, forms
from initio.rewrite import tracing
from initio.rewrite.branches import groups, owner
from initio.rewrite.chains import Chain, Group, find, replace
from initio.rewrite.change import Change
from initio.rewrite.layers import Activation, ParallelChains, Spec
from initio.rewrite.result import State
from initio.rewrite.scene import LAYERS, Scene

__all__ = ["paths"]

FEWEST = 4
"""Layers on one input from which a module that cannot be traced is said to have been passed over."""
Given = Mapping[str, Mapping[str, Any]]


def paths(scene: Scene, given: Callable[[list[str]], Given]) -> Iterator[Change]:
    """One change for each group of chains; `given` tells the arguments that modules are called with in a real step."""
    homes: dict[str, int] = {}
    for group in groups(scene):
        home = owner(scene, group)
        if home.module in scene.modules:
            homes[home.module] = max(len(group), homes.get(home.module, 0))
    arguments = given(list(homes)) if homes else {}
    for path, count in homes.items():
        module = scene.modules[path]
        if len(scene.calls[path]) > 1:
            if count >= FEWEST:
                scene.leave(path, f"it is called {len(scene.calls[path])} times")
            continue
        try:
            graphs = tracing.trace(module, arguments.get(path, {}))
        except tracing.UntraceableError as error:
            if count >= FEWEST:
                scene.leave(path, str(error))
            continue
        inside = dict(module.named_modules())
        notes: dict[str, str] = {}
        layers = [name for name, each in inside.items() if name and isinstance(each, LAYERS)]
        blocked = {name: scene.obstacle(f"{path}.{name}" if path else name) for name in layers}
        obstacles = {name: reason for name, reason in blocked.items() if reason is not None}
        found = {mode: find(graph, inside, notes, obstacles) for mode, graph in graphs.items()}
        other = {group.key for group in found[not module.training]}
        for group in found[module.training]:
            prefix = f"{path}." if path else ""
            members = [prefix + layer for chain in group.chains for layer in chain.layers]
            if group.key not in other:
                scene.leave(path, "its paths differ between training and evaluation mode")
            elif _axis_fits(scene, group, members[0], inside):
                yield _change(scene, path, inside, group, arguments.get(path, {}), obstacles)
        for target, reason in notes.items():
            if count >= FEWEST:
                scene.leave(f"{path}.{target}" if path else target, reason)


def _axis_fits(scene: Scene, group: Group, first: str, inside: Mapping[str, nn.Module]) -> bool:
    """Whether the input has a batch axis, and a concatenation is along the features."""
    rank = Spec.of(inside[group.chains[0].layers[0]]).rank
    dims = len(scene.record.values[scene.calls[first][0].inputs[0]].shape)
    if rank and dims != rank + 2:
        return False
    axis = 0 if group.merge == "sum" else int(group.merge[3:])
    return group.merge == "sum" or axis % dims == dims - 1 - rank


def _change(
    scene: Scene, path: str, inside: Mapping[str, nn.Module], group: Group, given: Mapping[str, Any], obstacles: Mapping[str, str]
) -> Change:
    prefix = f"{path}." if path else ""
    merge = "sum" if group.merge == "sum" else "cat"
    chains, first = group.chains, group.chains[0]
    steps = [link if isinstance(link, Activation) else Spec.of(inside[link]) for link in first.links]
    names = tuple(prefix + layer for chain in chains for layer in chain.layers)
    biased = [getattr(inside[layer], "bias", None) is not None for layer in first.layers]
    old = tuple(f"{prefix}{layer}.{kind}" for chain in chains for layer, b in zip(chain.layers, biased, strict=True) for kind in _kinds(b))
    state = {name: tensor.detach() for name, tensor in scene.model.state_dict(keep_vars=True).items() if name in set(old)}
    axis = next(step for step in steps if isinstance(step, Spec)).channels

    def before(x: Tensor, state: State) -> tuple[Tensor, ...]:
        outputs = [_run(chain, prefix, inside, state, x) for chain in chains]
        if merge == "cat":
            return (torch.cat(outputs, axis),)
        y = outputs[0]
        for each in outputs[1:]:
            y = y + each
        return (y,)

    if _is_split_transform_merge(first, steps, inside, merge, biased):
        module, fold, unfold = _split_transform_merge(chains, prefix, inside, state)
    else:
        fold, unfold = _stacked(chains, prefix, biased)
        trained = [f"{kind}{i}" for i, layer in enumerate(first.layers) for kind in ("weight", "bias") if _trains(inside[layer], kind)]
        module = ParallelChains(steps, len(chains), merge, fold(state), trained)
    module.train(scene.modules[path].training)
    name = _name(scene.modules[path], first.layers[0])

    def apply(model: nn.Module) -> None:
        holder = model.get_submodule(path)
        graphs = tracing.trace(holder, given)
        mine = dict(holder.named_modules())
        for graph in graphs.values():
            replace(graph, next(each for each in find(graph, mine, {}, obstacles) if each.key == group.key), name)
        holder.add_module(name, module)
        tracing.install(holder, graphs)
        used = {str(node.target) for graph in graphs.values() for node in graph.nodes if node.op in ("call_module", "get_attr")}
        _prune(holder, [layer for chain in chains for layer in chain.layers], used)

    shapes = tuple(tuple(state[f"{prefix}{layer}.weight"].shape) for layer in first.layers)
    x = scene.record.values[scene.calls[names[0]][0].inputs[0]].shape
    form = ("chains", tuple(s if isinstance(s, Spec) else s.form for s in steps), len(chains), merge, shapes, tuple(biased), tuple(x))
    return Change("chains", names, prefix + name, old, module, before, fold, unfold, apply, names[0], form)


def _kinds(biased: bool) -> tuple[str, ...]:
    return ("weight", "bias") if biased else ("weight",)


def _trains(layer: nn.Module, kind: str) -> bool:
    tensor = getattr(layer, kind)
    return tensor is not None and tensor.requires_grad


def _run(chain: Chain, prefix: str, inside: Mapping[str, nn.Module], state: State, x: Tensor) -> Tensor:
    for link in chain.links:
        if isinstance(link, Activation):
            x = link(x)
        else:
            x = Spec.of(inside[link])(x, state[f"{prefix}{link}.weight"], state.get(f"{prefix}{link}.bias"))
    return x


def _stacked(chains: tuple[Chain, ...], prefix: str, biased: list[bool]) -> tuple[Callable[[State], State], Callable[[State], State]]:
    def fold(old: State) -> State:
        return {
            f"{kind}{i}": torch.stack([old[f"{prefix}{chain.layers[i]}.{kind}"] for chain in chains])
            for i, b in enumerate(biased)
            for kind in _kinds(b)
        }

    def unfold(new: State) -> State:
        parts = {name: tensor.unbind(0) for name, tensor in new.items()}
        return {
            f"{prefix}{layer}.{kind}": parts[f"{kind}{i}"][g]
            for g, chain in enumerate(chains)
            for i, (layer, b) in enumerate(zip(chain.layers, biased, strict=True))
            for kind in _kinds(b)
        }

    return fold, unfold


def _is_split_transform_merge(
    chain: Chain, steps: list[Spec | Activation], inside: Mapping[str, nn.Module], merge: str, biased: list[bool]
) -> bool:
    """Whether the chains are 1x1, ReLU, kernel, ReLU, 1x1 (, ReLU), as `SplitTransformMerge` has them."""
    kinds = [isinstance(step, Spec) for step in steps]
    if merge != "sum" or kinds[:5] != [True, False, True, False, True] or len(steps) > 6 or len(set(biased)) > 1 or any(kinds[5:]):
        return False
    first, middle, last = (inside[layer] for layer in chain.layers)
    if not all(isinstance(layer, nn.Conv2d) for layer in (first, middle, last)):
        return False
    if not all(step.relu for step in steps if isinstance(step, Activation)):
        return False
    assert isinstance(first, nn.Conv2d)
    assert isinstance(middle, nn.Conv2d)
    assert isinstance(last, nn.Conv2d)
    point = all(c.kernel_size == (1, 1) and c.stride == (1, 1) and c.padding in ((0, 0), "valid") and c.groups == 1 for c in (first, last))
    size, dilation = middle.kernel_size, middle.dilation
    same = tuple(d * (k - 1) // 2 for d, k in zip(dilation, size, strict=True))
    centred = middle.padding == same and all(k % 2 for k in size) and middle.groups == 1 and middle.in_channels == middle.out_channels
    return point and centred


def _split_transform_merge(
    chains: tuple[Chain, ...], prefix: str, inside: Mapping[str, nn.Module], state: State
) -> tuple[nn.Module, Callable[[State], State], Callable[[State], State]]:
    first, middle, last = (inside[layer] for layer in chains[0].layers)
    assert isinstance(first, nn.Conv2d)
    assert isinstance(middle, nn.Conv2d)
    assert isinstance(last, nn.Conv2d)
    kinds = _kinds(first.bias is not None)
    size, stride, dilation = ((int(p[0]), int(p[1])) for p in (middle.kernel_size, middle.stride, middle.dilation))
    layer = SplitTransformMerge(
        first.in_channels, last.out_channels, len(chains), middle.out_channels, size, stride, dilation,
        activation_after="path" if len(chains[0].links) == 6 else None, bias=first.bias is not None, device=first.weight.device, dtype=first.weight.dtype,
    )  # fmt: skip
    renamed = {
        f"paths.{g}.{stage}.{kind}": f"{prefix}{name}.{kind}"
        for g, chain in enumerate(chains)
        for stage, name in zip(forms.STAGES, chain.layers, strict=True)
        for kind in kinds
    }

    def fold(old: State) -> State:
        return forms.from_loop({ours: old[theirs] for ours, theirs in renamed.items()})

    def unfold(new: State) -> State:
        return {renamed[name]: tensor for name, tensor in forms.to_loop(new, len(chains)).items()}

    layer.load_state_dict(fold(state))
    for stage, conv in zip(("reduce", "transform", "merge"), (first, middle, last), strict=True):
        for kind in kinds:
            getattr(layer, f"{stage}_{kind}").requires_grad_(getattr(conv, kind).requires_grad)
    return layer, fold, unfold


def _name(holder: nn.Module, layer: str) -> str:
    """A free name for the new module, after the attribute that held the paths."""
    name = wanted = f"{layer.partition('.')[0]}_merged"
    count = 1
    while hasattr(holder, name):
        count += 1
        name = f"{wanted}{count}"
    return name


def _prune(holder: nn.Module, layers: list[str], used: set[str]) -> None:
    """Delete the layers, and of what held them the parts that no graph calls any more."""
    for layer in layers:
        parent, _, name = layer.rpartition(".")
        del holder.get_submodule(parent)._modules[name]  # pyright: ignore[reportPrivateUsage]
    above = {layer.rsplit(".", n)[0] for layer in layers for n in range(1, layer.count(".") + 1)}
    for path in sorted(above, key=lambda p: -p.count(".")):
        part = holder.get_submodule(path)
        needed = any(target == path or target.startswith(path + ".") for target in used)
        if not needed and not any(True for _ in part.parameters()) and not any(True for _ in part.buffers()):
            parent, _, name = path.rpartition(".")
            del holder.get_submodule(parent)._modules[name]  # pyright: ignore[reportPrivateUsage]
