"""Parallel chains of one form that are added or concatenated, in the graph of the module that holds them."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from initio.rewrite.layers import CONVOLUTIONS, Activation, Spec
from initio.rewrite.scene import hooked

__all__ = ["Chain", "Group", "find", "replace"]

MODULES = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid, nn.ELU, nn.CELU, nn.SELU, nn.Softplus, nn.Softsign,
    nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.LogSigmoid, nn.Softshrink, nn.Hardshrink, nn.Tanhshrink, nn.Threshold, nn.Identity,
)  # fmt: skip
FUNCTIONS = frozenset(
    (F.relu, torch.relu, torch.relu_, F.relu6, F.leaky_relu, F.gelu, F.silu, F.mish, F.elu, F.celu, F.selu, F.softplus, F.softsign, F.tanh,
     F.sigmoid, F.hardtanh, F.hardswish, F.hardsigmoid, F.logsigmoid, torch.tanh, torch.sigmoid)
)  # fmt: skip
METHODS = frozenset(("relu", "relu_", "tanh", "tanh_", "sigmoid", "sigmoid_"))
RANDOM = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout, nn.RReLU)
ADD = (operator.add, operator.iadd, torch.add)


@dataclass(frozen=True, slots=True)
class Chain:
    """One path: layers by their paths in the owner and activations, from the value that enters to the one that is merged."""

    links: tuple[str | Activation, ...]
    nodes: tuple[fx.Node, ...]

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers alone."""
        return tuple(link for link in self.links if isinstance(link, str))


@dataclass(frozen=True, slots=True)
class Group:
    """Chains of one form that `root` merges; `others` are the further terms of its sum."""

    chains: tuple[Chain, ...]
    merge: str
    root: fx.Node
    source: fx.Node
    between: tuple[fx.Node, ...]
    others: tuple[Any, ...]

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal in another graph of the same forward where it is the same group."""
        return self.merge, tuple(chain.layers for chain in self.chains), tuple(len(chain.links) for chain in self.chains)


def find(graph: fx.Graph, modules: Mapping[str, nn.Module], notes: dict[str, str], obstacles: Mapping[str, str]) -> list[Group]:
    """Every group of at least two chains. `obstacles` are layers that must stay, with the reason.

    `notes` gets what stopped a chain: obstacles, random modules, statistics of the batch.
    """
    walk = _Walk(modules, notes, obstacles)
    found: list[Group] = []
    for node in graph.nodes:
        for merge, leaves, between in _merges(node):
            chains: dict[Any, list[tuple[Chain, Any]]] = {}
            for leaf in leaves:
                chain, source = walk.back(leaf)
                if chain is not None and leaves.count(leaf) == 1:
                    chains.setdefault((source, _form(chain, modules)), []).append((chain, leaf))
            for (source, form), members in chains.items():
                whole = merge == "sum" or len(members) == len(leaves)
                long = len(members[0][0].layers) > 1 or merge != "sum"
                if len(members) > 1 and whole and long and form is not None:
                    mine = [leaf for _, leaf in members]
                    others = tuple(leaf for leaf in leaves if leaf not in mine and leaf != 0)
                    found.append(Group(tuple(chain for chain, _ in members), merge, node, source, between, others))
                    break  # further groups of this merge are found in the next pass
    return found


def replace(graph: fx.Graph, group: Group, target: str) -> None:
    """Let the module at `target` stand for the group."""
    with graph.inserting_before(group.root):
        made = graph.call_module(target, (group.source,))
        for other in group.others:
            made = graph.call_function(operator.add, (other, made))
    group.root.replace_all_uses_with(made)
    dead = {group.root, *group.between, *(node for chain in group.chains for node in chain.nodes)}
    for node in reversed(list(graph.nodes)):
        if node in dead and not node.users:
            graph.erase_node(node)


def _is_add(node: Any) -> bool:
    if not isinstance(node, fx.Node) or len(node.args) != 2 or node.kwargs:
        return False
    return (node.op == "call_function" and node.target in ADD) or (node.op == "call_method" and node.target in ("add", "add_"))


def _merges(node: fx.Node) -> Iterator[tuple[str, list[Any], tuple[fx.Node, ...]]]:
    """What a node adds up or concatenates, and the nodes between."""
    if _is_add(node):
        users = list(node.users)
        if not (len(users) == 1 and _is_add(users[0]) and users[0].args[0] is not users[0].args[1]):
            yield ("sum", *_terms(node))
        return
    if node.op not in ("call_function", "call_method") or not node.args:
        return
    inner = node.args[0]
    if node.target in (torch.sum, "sum") and isinstance(inner, fx.Node) and inner.target is torch.stack and len(inner.users) == 1:
        axis = _axis(node)
        if axis == 0 and _axis(inner, 0) == 0 and not set(node.kwargs) - {"dim", "axis"} and isinstance(inner.args[0], (list, tuple)):
            yield "sum", list(inner.args[0]), (inner,)
    elif node.target in (torch.cat, torch.concat) and isinstance(inner, (list, tuple)):
        axis = _axis(node, 0)
        if isinstance(axis, int):
            yield f"cat{axis}", list(inner), ()


def _axis(node: fx.Node, default: Any = None) -> Any:
    found = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", node.kwargs.get("axis", default))
    return found[0] if isinstance(found, (list, tuple)) and len(found) == 1 else found


def _terms(root: fx.Node) -> tuple[list[Any], tuple[fx.Node, ...]]:
    """The terms of a tree of additions, in order."""
    terms: list[Any] = []
    between: list[fx.Node] = []
    waiting: list[Any] = [root]
    while waiting:
        node = waiting.pop()
        if _is_add(node) and (node is root or len(node.users) == 1) and node.args[0] is not node.args[1]:
            between.append(node)
            waiting += [node.args[1], node.args[0]]
        else:
            terms.append(node)
    return terms, tuple(between)


@dataclass(frozen=True)
class _Walk:
    modules: Mapping[str, nn.Module]
    notes: dict[str, str]
    obstacles: Mapping[str, str]

    def back(self, leaf: Any) -> tuple[Chain | None, Any]:
        """The chain that ends in a leaf, as far back as only the chain itself reads its values."""
        links: list[str | Activation] = []
        nodes: list[fx.Node] = []
        node = leaf
        while isinstance(node, fx.Node) and len(node.users) == 1 and node.args and isinstance(node.args[0], fx.Node):
            link = self.link(node)
            if link is None:
                break
            links.append(link)
            nodes.append(node)
            node = node.args[0]
        while links and not isinstance(links[-1], str):
            node = nodes.pop()
            links.pop()
            node = node.args[0]
        return (Chain(tuple(reversed(links)), tuple(reversed(nodes))), node) if links and isinstance(node, fx.Node) else (None, node)

    def link(self, node: fx.Node) -> str | Activation | None:
        rest, kwargs = tuple(node.args[1:]), tuple(sorted(node.kwargs.items()))
        if node.op == "call_module":
            module = self.modules.get(str(node.target))
            if rest or kwargs or module is None:
                return None
            if hooked(module):
                self.notes[str(node.target)] = "it has hooks"
                return None
            if str(node.target) in self.obstacles:
                self.notes[str(node.target)] = self.obstacles[str(node.target)]
                return None
            if type(module) in (nn.Linear, *CONVOLUTIONS):
                return str(node.target)
            if type(module) in MODULES:
                return Activation(module)
            if isinstance(module, RANDOM):
                self.notes[str(node.target)] = f"{type(module).__name__} draws for each path on its own"
            elif isinstance(module, nn.modules.batchnorm._BatchNorm):  # pyright: ignore[reportPrivateUsage]
                self.notes[str(node.target)] = "a batch norm in training mode depends on the batch; folded in evaluation mode"
            return None
        plain = all(isinstance(value, (int, float, str, bool, type(None))) for value in (*rest, *(v for _, v in kwargs)))
        known = (node.op == "call_function" and node.target in FUNCTIONS) or (node.op == "call_method" and node.target in METHODS)
        return Activation(node.target, rest, kwargs) if known and plain else None


def _form(chain: Chain, modules: Mapping[str, nn.Module]) -> tuple[Any, ...] | None:
    """Equal for chains that can be joined; None for one that cannot."""
    form: list[Any] = []
    specs: list[Spec] = []
    for link in chain.links:
        if isinstance(link, Activation):
            form.append(link.form)
            continue
        layer: Any = modules[link]
        weight, bias = layer.weight, layer.bias
        specs.append(Spec.of(layer))
        trained = (weight.requires_grad, bias is None or bias.requires_grad)
        form.append((specs[-1], tuple(weight.shape), bias is None, *trained, weight.dtype, weight.device))
    joinable = specs[0].groups == 1 and all(spec.rank == specs[0].rank for spec in specs)
    return tuple(form) if joinable else None
