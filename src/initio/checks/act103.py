"""ACT103: an activation on what an activation has made."""

from __future__ import annotations

from collections.abc import Iterator

from initio.checks.affine import NONNEGATIVE, back, place
from initio.checks.framework import Context, Found, check
from initio.checks.graph import DROPOUT, name
from initio.core.finding import Fix
from initio.core.record import Node

IDENTITY = frozenset({"relu", "abs", "leaky_relu", "_prelu_kernel"})
"""Activations that do nothing to values that are not negative."""
SOFT = frozenset({"_softmax", "_safe_softmax", "_log_softmax"})


@check("ACT103", "redundant-activation", "warning")
def redundant_activation(context: Context) -> Iterator[Found]:
    """An activation follows another one that has already done its work, or undone it.

    ## What it does
    Finds, with views, max-pooling and dropout at most between them: ReLU, LeakyReLU, PReLU and |x| on values that are never negative
    (after ReLU, sigmoid, softmax, softplus); a sigmoid on such values, which only uses its upper half; a softmax of a softmax over the
    same axis, and a sigmoid of a sigmoid. log_softmax of log_softmax is the same function and harmless.

    ## Why is this bad
    At best the second one costs time and hides that something else was meant. A second softmax, or a sigmoid of a ReLU, can no longer
    say no: the outputs are squeezed into a narrow range, and the gradient with them.

    ## Example
    ```python
    from torch import nn

    INPUT = "8x16"

    def Model():
        return nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.ReLU(), nn.Linear(16, 2))
    ```

    ## Use instead
    ```python
    from torch import nn

    INPUT = "8x16"

    def Model():
        return nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))
    ```

    ## References
    * Glorot, Bordes and Bengio 2011, *Deep sparse rectifier neural networks*
    """
    for node in context.record.nodes:
        if node.phase != "forward" or name(node) not in IDENTITY | SOFT | {"sigmoid"} or node.inputs[0] not in context.carrying:
            continue
        inner = _inner(context, node)
        said = None if inner is None else _said(inner, node)
        if inner is None or said is None:
            continue
        source = place(context, node.module, node)
        yield Found(
            message=said,
            module=node.module,
            source=source,
            evidence={"inner": name(inner), "outer": name(node)},
            remedy="Remove one of the two." if name(node) in IDENTITY else "Keep the one that was meant.",
            fix=Fix("Remove the second activation", "safe") if name(node) in IDENTITY else None,
            also=(inner.module,) if inner.module and inner.module != node.module else (),
            entity=f"{name(inner)}+{name(node)}",
            group=f"{name(inner)}:{source}",
        )


def _inner(context: Context, node: Node) -> Node | None:
    """The activation before this one."""

    def harmless(other: Node) -> bool:
        return name(other) == "max_pool2d_with_indices" or other.function in DROPOUT

    last = None
    for _, maker in back(context, node.inputs[0], harmless):
        last = maker
    return last if last is not None and not harmless(last) else None


def _said(inner: Node, outer: Node) -> str | None:
    first, second = name(inner), name(outer)
    one, two = first.strip("_"), second.strip("_")
    if second in IDENTITY and (first in NONNEGATIVE or (first == "hardtanh" and float((*inner.args, -1.0)[1]) >= 0)):
        return f"{two} does nothing here: the output of {one} is never negative."
    if second == "sigmoid" and first in NONNEGATIVE - {"exp", "softplus"}:
        return f"sigmoid of {one}, which is never negative, is at least ½: half of its range is out of reach."
    if second in SOFT and first in SOFT - {"_log_softmax"} and inner.args[1] == outer.args[1]:
        return f"{two} of {one} over the same axis: probabilities lie in [0, 1], so the result is nearly uniform."
    return None
