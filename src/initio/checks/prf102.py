"""PRF102: parallel chains that are grouped convolutions."""

from __future__ import annotations

from collections.abc import Iterator

from initio.checks.affine import place
from initio.checks.branches import chains
from initio.checks.framework import Context, Found, check
from initio.core.finding import Fix


@check("PRF102", "split-transform-merge", "note")
def split_transform_merge(context: Context) -> Iterator[Found]:
    """Parallel chains of equal form on one input, added or concatenated, are a few grouped convolutions.

    ## What it does
    Finds at least four chains of two or more layers, equal in form, that start from one value and end in one sum or concatenation.
    Chains of different form (Inception) are not this.

    ## Why is this bad
    Every path is a few small kernels: 32 paths of three convolutions are 96 calls where three grouped ones compute the same. Which is
    faster depends on sizes and machine: grouped convolutions can be slower, so time both.

    ## Example
    ```python
    from torch import nn

    INPUT = "4x32x8x8"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.paths = nn.ModuleList(nn.Sequential(nn.Conv2d(32, 4, 1), nn.ReLU(), nn.Conv2d(4, 32, 1)) for _ in range(8))

        def forward(self, x):
            return sum(path(x) for path in self.paths)
    ```

    ## Use instead
    ```python
    from torch import nn

    INPUT = "4x32x8x8"

    def Model():
        return nn.Sequential(nn.Conv2d(32, 32, 1), nn.ReLU(), nn.Conv2d(32, 32, 1))
    ```

    ## References
    * Xie, Girshick, Dollár, Tu and He 2017, *Aggregated residual transformations for deep neural networks*, figure 3
    """
    for group in chains(context):
        paths, depth = len(group), len(group[0].layers)
        first = group[0].layers[0]
        yield Found(
            message=f"{paths} parallel chains of {depth} layers ({paths * depth} calls) are {depth} layers: the first fused, those between "
            f"grouped, the last {'grouped' if group[0].merge == 'cat' else 'summed over the paths'}.",
            module=first.where,
            source=place(context, first.where, first.node),
            evidence={"paths": paths, "layers": depth},
            remedy="initio.rewrite.fuse replaces them, with proof, where that is timed faster: by initio.nn.SplitTransformMerge or grouped layers.",
            fix=Fix("Replace the paths by SplitTransformMerge", "safe"),
            also=tuple(layer.where for chain in group for layer in chain.layers if layer is not first and layer.where),
            entity="paths",
            group=f"{paths}:{place(context, first.where, first.node)}",
        )
