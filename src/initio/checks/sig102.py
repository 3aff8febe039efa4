"""SIG102: a network in which all inputs come to look alike."""

from __future__ import annotations

from collections.abc import Iterator

from initio.checks.framework import Context, Found, check
from initio.checks.spine import collapse, layers


@check("SIG102", "collapsed-inputs", "warning")
def collapsed_inputs(context: Context) -> Iterator[Found]:
    """The correlation of two different inputs tends to 1 layer by layer: the output does not depend on the input.

    ## What it does
    Follows the way that most of the signal takes, and looks at the share of the second moment in which two samples of the batch differ,
    E[x²] − E[x x′]. Reported is a steady geometric fall of that share, below a ten-thousandth over at least five layers, while the
    second moment itself stays. A skip, and batch norm in training, keep the share.

    ## Why is this bad
    The signal is there, the information is not: a network in its ordered phase maps all inputs to one point, and its gradient for the first
    layers vanishes with the differences.

    ## Example
    ```python
    import torch
    from torch import nn

    INPUT = "16:int(100)"

    class Layer(nn.Module):
        def __init__(self, width=64):
            super().__init__()
            self.linear = nn.Linear(width, width)
            nn.init.normal_(self.linear.weight, std=0.5 / width**0.5)
            nn.init.normal_(self.linear.bias, std=0.5)

        def forward(self, x):
            return self.linear(x).tanh()

    def Model(depth=12):
        features = nn.Sequential(nn.Embedding(100, 64), *(Layer() for _ in range(depth))).requires_grad_(False)
        return nn.Sequential(features, nn.Linear(64, 2))
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    INPUT = "16:int(100)"

    class Layer(nn.Module):
        def __init__(self, width=64):
            super().__init__()
            self.linear = nn.Linear(width, width)
            nn.init.normal_(self.linear.weight, std=1.3 / width**0.5)
            nn.init.normal_(self.linear.bias, std=0.1)

        def forward(self, x):
            return self.linear(x).tanh()

    def Model(depth=12):
        features = nn.Sequential(nn.Embedding(100, 64), *(Layer() for _ in range(depth))).requires_grad_(False)
        return nn.Sequential(features, nn.Linear(64, 2))
    ```

    ## References
    * Schoenholz, Gilmer, Ganguli and Sohl-Dickstein 2017, *Deep information propagation*, section 3: the ordered phase
    * Dong, Cordonnier and Loukas 2021, *Attention is not all you need*: the same for tokens
    """
    run = [layer for layer in layers(context) if layer is not None]
    course = collapse(context, run)
    if course is None:
        return
    first, last = run[0], run[-1]
    yield Found(
        message=f"two inputs differ in {course.last:.2g} of the second moment after {course.depth + 1} layers; each layer keeps "
        f"{course.rate:.3g} of what is left of their difference.",
        module=last.module,
        source=context.made(last.module) or last.node.source,
        evidence={**course.evidence, "correlation": 1 - course.last},
        remedy="Initialise biases at zero and weights with the gain of the activation, or add skips.",
        also=tuple(layer.module for layer in run[:-1] if layer.module),
        entity=first.module,
    )
