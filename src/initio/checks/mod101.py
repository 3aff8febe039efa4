"""MOD101: dropout that evaluation does not switch off."""

from __future__ import annotations

import re
from collections.abc import Iterator

from initio.checks.framework import Context, Found, check
from initio.checks.graph import DROPOUT, name, reached
from initio.core.finding import Fix
from initio.core.record import Node

MASKS = frozenset({"bernoulli", "native_dropout", "rrelu_with_noise"})
ASKED = re.compile(r"training\s*=\s*True")


@check("MOD101", "eval-nondeterminism", "error")
def eval_nondeterminism(context: Context) -> Iterator[Found]:
    """A random mask stays on in evaluation mode.

    ## What it does
    Records the forward pass in evaluation mode and looks for dropout that still draws: `F.dropout(x)` without `training=`, a
    `dropout_p` of `scaled_dot_product_attention` that does not follow the mode, a Bernoulli mask. Noise that is no mask (sampling of a
    latent variable, a diffusion step) is not reported, nor a line that says `training=True`.

    ## Why is this bad
    Predictions change from call to call, and are those of a damaged network: metrics are worse than the model is.

    ## Example
    ```python
    import torch.nn.functional as F
    from torch import nn

    INPUT = "4x16"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(16, 16)
            self.second = nn.Linear(16, 2)

        def forward(self, x):
            return self.second(F.dropout(self.first(x).relu(), 0.2))
    ```

    ## Use instead
    ```python
    import torch.nn.functional as F
    from torch import nn

    INPUT = "4x16"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(16, 16)
            self.second = nn.Linear(16, 2)

        def forward(self, x):
            return self.second(F.dropout(self.first(x).relu(), 0.2, training=self.training))
    ```

    ## References
    * [torch.nn.functional.dropout](https://pytorch.org/docs/stable/generated/torch.nn.functional.dropout.html): `training` is True unless
      given
    """
    if not any(_mask(node) for node in context.record.nodes):
        return
    record = context.evaluation
    if record is None:
        return
    results = {output.value for output in record.outputs}
    for node in record.nodes:
        if not _mask(node) or (node.source is not None and ASKED.search(node.source.text)):
            continue
        if not results.intersection(reached(record, [v for v in node.outputs if v is not None])):
            continue
        function = node.function or name(node)
        functional = function in DROPOUT
        attention = function == "scaled_dot_product_attention"
        argument = "dropout_p=self.p if self.training else 0.0" if attention else "training=self.training"
        yield Found(
            message=f"{function} draws a random mask in evaluation mode: the output changes from call to call.",
            module=node.module,
            source=node.source,
            evidence={"p": _rate(node), "function": function},
            remedy=f"Pass {argument}." if functional or attention else "Apply the mask in training mode only: if self.training.",
            fix=Fix(f"Pass {argument}", "safe", argument) if functional or attention else None,
            entity=function,
            group=f"{function}:{node.source}",
        )


def _mask(node: Node) -> bool:
    return node.phase == "forward" and name(node) in MASKS and "~" not in node.module


def _rate(node: Node) -> float:
    kept = next((a for a in node.args if isinstance(a, float)), 0.5)
    return 1 - kept if name(node) == "bernoulli" else kept
