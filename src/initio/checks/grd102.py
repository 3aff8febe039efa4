"""GRD102: weights that compute and receive no gradient."""

from __future__ import annotations

from collections.abc import Iterator

from initio.checks.framework import Context, Found, check
from initio.checks.graph import name, reached
from initio.core.record import Node, Parameter

DISCRETE = frozenset(
    {"argmax", "argmin", "sign", "round", "floor", "ceil", "trunc", "bucketize", "one_hot", "_to_copy", "gt", "lt", "ge", "le"}
)
"""Operations whose output does not change with small changes of the input, or is no floating number."""


@check("GRD102", "no-gradient-path", "error")
def no_gradient_path(context: Context) -> Iterator[Found]:
    """A layer computes, and no gradient can come back to its weights.

    ## What it does
    Follows every trainable weight without a gradient forward through the record, and names the operation that cuts: the only result is
    discarded, or it is detached, computed under `no_grad`, or passes an argmax or a rounding. Frozen weights are not
    reported, nor is a tensor that is detached beside a way that carries the gradient (a stop-gradient, a straight-through estimator), nor
    an output that the loss does not read.

    ## Why is this bad
    The weights keep their initial values. Training looks normal, since the rest of the network learns around them.

    ## Example
    ```python
    from torch import nn

    INPUT = "4x16"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Linear(16, 16)
            self.head = nn.Linear(16, 2)

        def forward(self, x):
            features = self.encoder(x).relu().detach()
            return self.head(features)
    ```

    ## Use instead
    ```python
    from torch import nn

    INPUT = "4x16"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Linear(16, 16)
            self.head = nn.Linear(16, 2)

        def forward(self, x):
            features = self.encoder(x).relu()
            return self.head(features)
    ```

    ## References
    * [torch.Tensor.detach](https://pytorch.org/docs/stable/generated/torch.Tensor.detach.html)
    """
    record = context.record
    results = {output.value for output in record.outputs}
    if record.loss is not None:
        results.add(record.loss)
    ends: dict[tuple[str, int], list[tuple[Parameter, Node, str]]] = {}
    for parameter in record.parameters:
        if not parameter.trainable or parameter.gradient is not None or not context.consumers.get(parameter.value):
            continue
        found = _cut(context, parameter, results)
        if found is not None:
            ends.setdefault((found[1], found[0].id), []).append((parameter, *found))
    for (why, _), cuts in ends.items():
        parameter, node, _ = cuts[0]
        owners = list(dict.fromkeys(p.name.rpartition(".")[0] for p, _, _ in cuts))
        entries = sum(record.values[p.value].size for p, _, _ in cuts)
        yield Found(
            message=f"{entries:,} weights compute and receive no gradient: {WORDS[why].format(name(node))}.",
            module=owners[0],
            source=node.source or context.made(owners[0]),
            evidence={"weights": entries, "layers": len(owners), "cut": name(node)},
            remedy=REMEDIES[why],
            also=tuple(owners[1:]),
            entity=f"{why}:{name(node)}",
            group=f"{why}:{node.source}:{node.module}" if node.source is not None else "",
        )


WORDS = {
    "no_grad": "{} runs without autograd (torch.no_grad or inference mode)",
    "detached": "{} cuts the result off from autograd",
    "discrete": "the result of {} has no derivative",
    "discarded": "the result of {} is not used",
}
REMEDIES = {
    "no_grad": "Leave no_grad out of the trained forward pass, or freeze the layer with requires_grad_(False) if that is meant.",
    "detached": "Remove the detach, or freeze the layer with requires_grad_(False) if that is meant.",
    "discrete": "Use a differentiable form (softmax, a straight-through estimator), or train this layer by another loss.",
    "discarded": "Use the result, or remove the call.",
}


def _cut(context: Context, parameter: Parameter, results: set[int]) -> tuple[Node, str] | None:
    """The node where the last way from a weight to a result ends, and how; None where the gradient could come back."""
    record = context.record
    alive = _differentiable(context, parameter.value)
    if alive & results:
        return None
    nodes = [node for node in record.nodes if node.phase != "backward" and not alive.isdisjoint(node.inputs)]
    cutting = [node for node in nodes if not any(v in alive for v in node.outputs if v is not None)]
    everywhere = reached(record, [parameter.value])
    for node in cutting:
        if not everywhere.isdisjoint(results) and not reached(record, [v for v in node.outputs if v is not None]).isdisjoint(results):
            if name(node) == "detach":
                return node, "detached"
            if name(node) in DISCRETE or not any(record.values[v].floating for v in node.outputs if v is not None):
                return node, "discrete"
            return node, "no_grad"
    if everywhere.isdisjoint(results) and nodes:
        offered = any(len(call.outputs) > 1 and call.parent >= 0 and not everywhere.isdisjoint(call.outputs) for call in record.calls)
        return None if offered else (nodes[-1], "discarded")  # one of several results of a part that serves other models too
    return None


def _differentiable(context: Context, value: int) -> set[int]:
    """Values that are computed from one through autograd."""
    alive = {value}
    for node in context.record.nodes:
        if node.phase != "backward" and name(node) not in ("detach", *DISCRETE - {"_to_copy"}) and not alive.isdisjoint(node.inputs):
            alive.update(v for v in node.outputs if v is not None and context.record.values[v].requires_grad)
    return alive
