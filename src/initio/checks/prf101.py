"""PRF101: several layers on one input."""

from __future__ import annotations

from collections.abc import Iterator

from initio.checks.affine import place
from initio.checks.branches import chains, parallel, projections
from initio.checks.framework import Context, Found, check
from initio.core.finding import Fix


@check("PRF101", "same-input-branches", "note")
def same_input_branches(context: Context) -> Iterator[Found]:
    """Linear layers or convolutions with the same window on the same input are one wider layer.

    ## What it does
    Finds layers that read one value, with equal kernel, stride, padding and dilation, all with or all without a bias. Frozen layers,
    grouped convolutions and weights that are used several times are left out; queries, keys and values are told by PRF103.

    ## Why is this bad
    The input is read once per branch, and each product is too narrow to fill the machine. One layer whose weights are stacked
    along the outputs, split behind, gives equal outputs and gradients.

    ## Example
    ```python
    from torch import nn

    INPUT = "8x64"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate = nn.Linear(64, 128)
            self.up = nn.Linear(64, 128)
            self.down = nn.Linear(128, 10)

        def forward(self, x):
            return self.down(self.gate(x).sigmoid() * self.up(x))
    ```

    ## Use instead
    ```python
    from torch import nn

    INPUT = "8x64"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.both = nn.Linear(64, 256)
            self.down = nn.Linear(128, 10)

        def forward(self, x):
            gate, up = self.both(x).chunk(2, -1)
            return self.down(gate.sigmoid() * up)
    ```

    ## References
    * Jia, Thomas, Warszawski, Gao, Zaharia and Aiken 2019, *Optimizing DNN computation with relaxed graph substitutions*
    """
    told = {layer.node.id for group in projections(context) for layer in group}
    told |= {layer.node.id for group in chains(context) for chain in group for layer in chain.layers}
    groups = [group for group in parallel(context) if not any(layer.node.id in told for layer in group)]
    if not groups:
        return
    first = groups[0]
    names = ", ".join(layer.where or layer.weight.name for layer in first[:4])
    more = f"; {len(groups)} such groups in all" if len(groups) > 1 else ""
    yield Found(
        message=f"{names} read one input: one layer with {sum(layer.outputs for layer in first)} outputs computes the same{more}.",
        module=first[0].where,
        source=place(context, first[0].where, first[0].node),
        evidence={"branches": len(first), "groups": len(groups), "outputs": sum(layer.outputs for layer in first)},
        remedy="Stack the weights along the outputs, and split the result: initio.rewrite.fuse does it, with proof, where it is faster.",
        fix=Fix("Fuse the branches into one layer", "safe"),
        also=tuple(dict.fromkeys(layer.where for group in groups for layer in group if layer.where and layer is not first[0])),
        entity="branches",
    )
