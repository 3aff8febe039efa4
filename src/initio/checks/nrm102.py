"""NRM102: one batch norm for several distributions."""

from __future__ import annotations

import math
from collections.abc import Iterator

from initio.checks.affine import BATCH_NORMS, affines
from initio.checks.framework import Context, Found, check
from initio.checks.graph import behind, name
from initio.core.record import Node

FAR = 1.25
"""Second moments further apart than this factor are different distributions."""


@check("NRM102", "shared-batchnorm", "warning")
def shared_batchnorm(context: Context) -> Iterator[Found]:
    """One batch norm normalises the outputs of several layers, or of several steps, in one forward pass.

    ## What it does
    Finds a batch norm with running statistics that is called several times in one forward pass on the outputs of different layers, or on
    values whose predicted second moments differ by more than a quarter. A siamese network, which sends inputs of one distribution through
    the same layers, is not reported.

    ## Why is this bad
    In training each call normalises with its own statistics; in evaluation all of them use one running average over a mixture that no
    call ever saw. The accuracy falls as soon as `eval()` is called.

    ## Example
    ```python
    from torch import nn

    INPUT = "8x3x16x16"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
            self.conv2 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
            self.norm = nn.BatchNorm2d(8)

        def forward(self, x):
            x = self.norm(self.conv1(x)).relu()
            return self.norm(self.conv2(x)).relu()
    ```

    ## Use instead
    ```python
    from torch import nn

    INPUT = "8x3x16x16"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
            self.conv2 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
            self.norm1 = nn.BatchNorm2d(8)
            self.norm2 = nn.BatchNorm2d(8)

        def forward(self, x):
            x = self.norm1(self.conv1(x)).relu()
            return self.norm2(self.conv2(x)).relu()
    ```

    ## References
    * Cooijmans, Ballas, Laurent, Gülçehre and Courville 2017, *Recurrent batch normalization*: statistics differ from step to step
    * [torch.nn.BatchNorm2d](https://pytorch.org/docs/stable/generated/torch.nn.BatchNorm2d.html)
    """
    calls: dict[int, list[Node]] = {}
    for node in context.record.nodes:
        statistics = node.args[3] if name(node) in BATCH_NORMS and len(node.args) > 5 and node.args[5] is True else None
        if node.phase == "forward" and statistics is not None:
            buffer = _initial(context, statistics.value)
            calls.setdefault(buffer, []).append(node)
    for nodes in calls.values():
        if len(nodes) < 2:
            continue
        feeding = [_feeding(context, node) for node in nodes]
        seconds = [context.analysis.of(node.inputs[0]).second for node in nodes]
        ratio = max(seconds) / min(seconds) if all(s == s and s > 0 for s in seconds) else math.nan
        different = len(set(feeding)) > 1
        if not different and not ratio > FAR:
            continue
        means = ", ".join(f"{second:.3g}" for second in seconds[:4])
        whose = "outputs of different layers" if different else "inputs of different scale"
        yield Found(
            message=f"one batch norm, called {len(nodes)} times in a forward pass, normalises {whose} (second moments {means}).",
            module=nodes[0].module,
            source=context.made(nodes[0].module) if nodes[0].module else nodes[0].source,
            evidence={"calls": len(nodes), "ratio": ratio},
            remedy="Give each place its own batch norm, or use a norm without running statistics.",
            entity="shared",
        )


def _initial(context: Context, value: int) -> int:
    """The running statistic before any call has updated it."""
    while (node := context.producers.get(value)) is not None and node.inputs:
        value = node.inputs[0]
    return value


def _feeding(context: Context, node: Node) -> frozenset[int]:
    """The weights that made what a norm reads, back to the norms and layers before it."""
    made = {each.node.id: each.weight.value for each in affines(context)}

    def stop(other: Node) -> bool:
        return other.id in made

    reached = behind(context, node.inputs[0], stop)
    makers = (context.producers.get(value) for value in reached)
    return frozenset(made[maker.id] for maker in makers if maker is not None and maker.id in made)
