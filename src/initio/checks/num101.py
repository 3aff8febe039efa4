"""NUM101: operations that are not defined, or have no gradient, at values that occur."""

from __future__ import annotations

from collections.abc import Iterator

from initio.checks.bounds import Bound, bound
from initio.checks.framework import Context, Found, check
from initio.checks.graph import name
from initio.core.record import Node, Ref

LOGS = frozenset({"log", "log2", "log10"})
ROOTS = frozenset({"sqrt", "rsqrt"})
LARGEST_EXPONENT = {"float16": 11.0, "bfloat16": 88.7, "float32": 88.7, "float64": 709.7}


@check("NUM101", "unstable-op", "warning")
def unstable_op(context: Context) -> Iterator[Found]:
    """A logarithm, root, quotient or exponential meets values where it is infinite or has no gradient.

    ## What it does
    Follows the argument back to what bounds it (ReLU, sigmoid, softmax, squares, clamp, an added constant) and reads its predicted
    moments. Reported are log and sqrt of values that are exactly zero with positive probability, or negative; log of a softmax or
    sigmoid, which float rounds to zero; division by a value whose law reaches across zero or is exactly zero; exp beyond the dtype. An
    argument with a guard (`+ eps`, `clamp`) is not reported, nor are inputs of the model, whose values only you know.

    ## Why is this bad
    log 0 = −∞, and √0 has an infinite derivative, which times zero is NaN: one such entry makes every weight NaN in the next step.
    A quotient by a normal variable has no variance at all.

    ## Example
    ```python
    import torch
    from torch import nn

    INPUT = "8x32"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(32, 10)

        def forward(self, x):
            return torch.log(torch.softmax(self.linear(x), -1))
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    INPUT = "8x32"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(32, 10)

        def forward(self, x):
            return torch.log_softmax(self.linear(x), -1)
    ```

    ## References
    * [pytorch#2421](https://github.com/pytorch/pytorch/issues/2421): the gradient of sqrt and norm at zero
    """
    for node in context.record.nodes:
        if node.phase == "backward" or not node.args:
            continue
        said = _said(context, node)
        if said is None:
            continue
        value, what, remedy = said
        summary = context.analysis.of(value)
        yield Found(
            message=what,
            module=node.module,
            source=node.source,
            evidence={"operation": name(node), "mean": summary.mean, "std": summary.std},
            remedy=remedy,
            entity=name(node),
            group=str(node.source),
        )


def _said(context: Context, node: Node) -> tuple[int, str, str] | None:
    """(the argument, what is wrong with it, the remedy)."""
    operation = name(node)
    position = 1 if operation == "div" else 0
    argument = node.args[position] if len(node.args) > position else None
    if not isinstance(argument, Ref) or argument.value not in context.carrying:
        return None
    value = argument.value
    summary, values = context.analysis.of(value), context.record.values
    if operation == "exp":
        limit = LARGEST_EXPONENT.get(values[value].dtype, 1e9)
        tail = 6 if summary.mean > -summary.std else 1  # a law that lies below zero by its own width may never come above it
        top = summary.mean + tail * summary.std
        said = f"exp of a value with mean {summary.mean:.3g} and standard deviation {summary.std:.3g} overflows {values[value].dtype}"
        return (value, said + ".", "Subtract the maximum first, or clamp the argument.") if top > limit else None
    half = operation == "pow" and len(node.args) > 1 and isinstance(node.args[1], float) and 0 < node.args[1] < 1
    if not (operation in LOGS | ROOTS | {"div", "reciprocal"} or half):
        return None
    if summary.claim != "unknown" and summary.second == 0.0:
        return value, f"the argument of {operation} is exactly 0 at initialisation.", "Add a small constant, or start from another value."
    found = bound(context, value)
    return None if found is None else _judged(operation, value, found, summary.mean, summary.std)


def _judged(operation: str, value: int, found: Bound, mean: float, std: float) -> tuple[int, str, str] | None:
    guard = "Add a small constant inside, or clamp from below."
    if found.real:
        crosses = std > 0 and abs(mean) < 4 * std
        if not crosses:
            return None
        if operation in ("div", "reciprocal"):
            said = f"division by {found.by}, whose law (mean {mean:.3g}, standard deviation {std:.3g}) has positive density at 0"
            return value, said + ": the quotient has no variance.", "Divide by a positive function of it, such as softplus(y) + eps."
        return value, f"{operation} of {found.by}, which is negative for a part of its law (mean {mean:.3g}, std {std:.3g}): NaN.", guard
    if found.low > 0 or found.low < 0:
        return None
    if found.zero == "exact":
        infinite = (
            "the gradient there is infinite" if operation not in (*LOGS, "div", "reciprocal", "rsqrt") else "the value there is infinite"
        )
        return value, f"{operation} of {found.by}, which is exactly 0 with positive probability; {infinite}.", guard
    if found.zero == "own" and operation in ROOTS:
        said = f"{operation} of {found.by}, which is 0 where an entry meets itself; the gradient there is infinite, times 0: NaN."
        return value, said, "Add a small constant inside, or use torch.cdist or torch.linalg.vector_norm, whose gradient there is 0."
    if operation in LOGS and found.by in ("softmax", "sigmoid"):
        instead = "log_softmax" if found.by == "softmax" else "logsigmoid"
        said = f"{operation} of {found.by}: a probability below the smallest float is 0, its logarithm −∞ and its gradient NaN."
        return value, said, f"Use F.{instead}, or a loss that takes logits."
    return None
