"""SIG104: a random mask that changes the scale between training and evaluation."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

from initio.checks.framework import Context, Found, check
from initio.checks.graph import DROPOUT, name, reached
from initio.core.analysis import Analysis
from initio.core.record import Call, Node, Record

RANDOM = frozenset({"bernoulli", "rand", "rand_like", "uniform", "native_dropout", "randint", "randint_like"})
MASKING = RANDOM | {
    "mul", "div", "floor", "lt", "gt", "ge", "le", "_to_copy", "masked_fill", "where", "add", "sub", "rsub", "logical_not", "bitwise_not",
    "expand", "view", "alias", "clone", "detach", "fill", "ones_like", "full_like", "empty_like", "new_empty", "unsqueeze", "eq", "ne",
}  # fmt: skip
"""What the drawing and the applying of a mask is made of."""
SCALING = frozenset({"mul", "div", "alias", "detach", "clone"})


@check("SIG104", "train-eval-shift", "warning")
def train_eval_shift(context: Context) -> Iterator[Found]:
    """A random mask is not divided by the share that it keeps: training and evaluation see different scales.

    ## What it does
    Predicts the moments of both modes, and compares every module that masks at random in training: its output in relation to its input. A
    mask with mean 1 keeps the mean and can only raise the second moment (by 1/(1 − p)); reported is a second moment that is smaller
    in training than in evaluation, or a mean that moves. Batch norm, whose running statistics are not yet those of the data, is not
    compared, nor a module that computes something else in evaluation.

    ## Why is this bad
    The layers after it are trained on one scale and evaluated on another: the network is worse in evaluation than its training loss says.

    ## Example
    ```python
    import torch
    from torch import nn

    INPUT = "16x64"

    class Drop(nn.Module):
        def forward(self, x):
            if self.training:
                x = x * torch.bernoulli(torch.full_like(x, 0.5))
            return x

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(64, 64)
            self.drop = Drop()
            self.second = nn.Linear(64, 2)

        def forward(self, x):
            return self.second(self.drop(self.first(x)).relu())
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    INPUT = "16x64"

    class Drop(nn.Module):
        def forward(self, x):
            if self.training:
                x = x * torch.bernoulli(torch.full_like(x, 0.5)) / 0.5
            return x

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(64, 64)
            self.drop = Drop()
            self.second = nn.Linear(64, 2)

        def forward(self, x):
            return self.second(self.drop(self.first(x)).relu())
    ```

    ## References
    * Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov 2014, *Dropout*, section 10: scaling at test time or in training
    """
    if not any(_draws(context, node) for node in context.record.nodes):
        return
    other = context.other
    if other is None:
        return
    train, evaluation = (context.analysis, other) if context.record.training else (other, context.analysis)
    matching = {(call.module, call.index): call for call in evaluation.record.calls}
    training = Context(train)
    blamed: list[Call] = []
    for call in sorted(train.record.calls, key=lambda call: -call.id):  # inner calls before outer ones
        twin = matching.get((call.module, call.index))
        if twin is None or any(_within(train.record, inner, call) for inner in blamed):
            continue
        nodes = _nodes(train.record, call)
        if not any(_draws(training, node) for node in nodes) or not _comparable(nodes, _nodes(evaluation.record, twin)):
            continue
        shift = _shift(train, call, evaluation, twin)
        if shift is None:
            continue
        blamed.append(call)
        drawn = next(node for node in nodes if _draws(training, node))
        yield Found(
            message=f"a random mask leaves {shift[0]:.3g} of the second moment in training that evaluation has (mean {shift[1]:.3g} "
            f"against {shift[2]:.3g}): it is not rescaled.",
            module=call.module,
            source=drawn.source or context.made(call.module),
            evidence={"ratio": shift[0], "mean_training": shift[1], "mean_evaluation": shift[2]},
            remedy="Divide by the share that is kept, in training, as nn.Dropout does.",
            entity=drawn.function or name(drawn),
            group=f"{drawn.source}",
        )


def _draws(context: Context, node: Node) -> bool:
    """Whether the node draws a mask other than that of torch's own dropout, which divides by the share that it keeps."""
    if node.phase != "forward" or name(node) not in RANDOM or node.function in (*DROPOUT, "scaled_dot_product_attention", "rrelu"):
        return False
    values = [v for v in node.outputs if v is not None]
    masked = bool(reached(context.record, values) & context.carrying)  # not for the control flow alone
    return masked and not _rescaled(context, node)


def _rescaled(context: Context, node: Node) -> bool:
    """Whether what the mask keeps is divided by the share that is kept, before or after: x / k · floor(u + k), x · (u > p) / (1 − p)."""
    mask = reached(context.record, [v for v in node.outputs if v is not None], lambda n: any(v in context.carrying for v in n.inputs))
    made = [n for v in mask if (n := context.producers.get(v)) is not None]
    shares = {a for n in made for a in n.args if isinstance(a, float)}
    shares |= {1 - share for share in shares}
    products = [n for v in mask for n in context.consumers.get(v, ()) if any(i in context.carrying for i in n.inputs)]
    near = [*made, *(p for n in products for v in n.inputs if (p := context.producers.get(v)) is not None)]
    near += [n for each in products for v in each.outputs if v is not None for n in context.consumers.get(v, ())]
    scales = [(n, a) for n in near for a in n.args[1:] if isinstance(a, (int, float)) and a]
    factors = [a if name(n) == "div" else 1 / a for n, a in scales if name(n) in ("div", "mul")]
    return any(math.isclose(factor, share, rel_tol=1e-6) for factor in factors for share in shares)


def _within(record: Record, call: Call, outer: Call) -> bool:
    while call.parent >= 0:
        if call.parent == outer.id:
            return True
        call = record.calls[call.parent]
    return call.id == outer.id


def _nodes(record: Record, call: Call) -> list[Node]:
    inside: set[int] = {call.id}
    for other in record.calls:
        if other.parent in inside:
            inside.add(other.id)
    return [node for node in record.nodes if node.phase == "forward" and node.call in inside]


def _comparable(training: list[Node], evaluation: list[Node]) -> bool:
    """Whether the two differ by a mask alone, and no statistic of the batch stands between."""
    one, two = Counter(map(name, training)), Counter(map(name, evaluation))
    norms = any("batch_norm" in what for what in one)
    return not norms and set(one - two) <= MASKING and set(two - one) <= SCALING


def _shift(train: Analysis, call: Call, evaluation: Analysis, twin: Call) -> tuple[float, float, float] | None:
    """(ratio of second moments, mean in training, mean in evaluation), in units of the input's rms; None where they agree."""
    if not call.outputs or not twin.outputs:
        return None
    rows = [(train.of(call.outputs[0]), _scale(train, call)), (evaluation.of(twin.outputs[0]), _scale(evaluation, twin))]
    (mean_t, second_t), (mean_e, second_e) = ((out.mean / scale, out.second / scale**2) for out, scale in rows)
    if not all(map(math.isfinite, (mean_t, second_t, mean_e, second_e))) or second_e <= 0:
        return None
    ratio = second_t / second_e
    moved = abs(mean_t - mean_e) > 0.1 * max(abs(mean_t), abs(mean_e)) and abs(mean_e) > 0.1 * math.sqrt(second_e)
    return (ratio, mean_t, mean_e) if ratio < 0.95 or moved else None


def _scale(analysis: Analysis, call: Call) -> float:
    rms = analysis.of(call.inputs[0]).rms if call.inputs else 1.0
    return rms if rms > 0 else math.nan
