"""The forward of one module as a graph, and a graph as the forward of that module.

Only the module that holds the paths is traced, with the layers inside as they are, so that the rest of the model keeps its classes, names
and control flow.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from initio.rewrite.scene import hooked

__all__ = ["UntraceableError", "install", "trace"]


GRAPHS = "_initio_graphs"
"""Attribute of a class whose forward was installed."""


class UntraceableError(ValueError):
    """A module's forward is no graph; the message says why."""


class _Tracer(fx.Tracer):
    """Looks into containers and the user's own modules, not into torch's layers nor into modules with hooks."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        plain = type(m) is nn.Sequential or not type(m).__module__.startswith(("torch.nn.", "initio."))
        return hooked(m) or parametrize.is_parametrized(m) or not plain


def trace(module: nn.Module, given: Mapping[str, Any]) -> dict[bool, fx.Graph]:
    """The forward's graphs in training and in evaluation mode. `given` are the arguments of a call; those without tensors are fixed.

    Raises:
        UntraceableError: the forward depends on contents, has starred arguments, or does what fx cannot follow.
    """
    known: Mapping[bool, fx.Graph] | None = getattr(type(module), GRAPHS, None)
    if known is not None:
        return {mode: copy.deepcopy(graph) for mode, graph in known.items()}
    signature = inspect.signature(module.forward)
    kinds = inspect.Parameter
    if any(p.kind in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD, kinds.KEYWORD_ONLY) for p in signature.parameters.values()):
        raise UntraceableError("its forward has starred or keyword-only arguments")
    fixed = {name: given.get(name, p.default) for name, p in signature.parameters.items() if not _tensors(given.get(name, p.default))}
    modes = {each: each.training for each in module.modules()}
    graphs: dict[bool, fx.Graph] = {}
    try:
        for mode in (True, False):
            module.train(mode)
            graphs[mode] = _Tracer().trace(module, concrete_args=fixed or None)
    except Exception as error:
        raise UntraceableError(f"its forward cannot be traced: {str(error).strip().splitlines()[0]}") from error
    finally:
        for each, training in modes.items():
            each.training = training
    return graphs


def install(module: nn.Module, graphs: Mapping[bool, fx.Graph]) -> None:
    """Make the graphs the module's forward; its class becomes a subclass of what it was."""
    former = type(module)
    forwards = {mode: _compiled(module, graph) for mode, graph in graphs.items()}
    signature = inspect.signature(module.forward)

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return forwards[self.training](self, *bound.args)

    forward.__doc__, forward.__signature__ = former.forward.__doc__, inspect.signature(former.forward)  # pyright: ignore[reportFunctionMemberAccess]
    made = type(
        former.__name__, (former,), {"forward": forward, "__module__": former.__module__, "__doc__": former.__doc__, GRAPHS: graphs}
    )
    module.__class__ = made


def _compiled(module: nn.Module, graph: fx.Graph) -> Any:
    graph.lint()
    return type(fx.GraphModule(module, graph)).forward


def _tensors(value: Any) -> bool:
    if isinstance(value, Tensor):
        return True
    if isinstance(value, Mapping):
        return any(_tensors(each) for each in value.values())
    return isinstance(value, (list, tuple)) and any(_tensors(each) for each in value)
