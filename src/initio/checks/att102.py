"""ATT102: attention logits with a scale that is not 1/√d."""

from __future__ import annotations

import math
from collections.abc import Iterator

from initio.checks.affine import place
from initio.checks.attention import Attention, attentions
from initio.checks.framework import Context, Found, check
from initio.core.finding import Fix

LARGE = 1.1
"""Standard deviation of the logits above which a missing scale sharpens the softmax (T5, whose init makes up for it, is at 1)."""


@check("ATT102", "attention-scale", "warning")
def attention_scale(context: Context) -> Iterator[Found]:
    """The logits of an attention are scaled twice, by the model's width, the wrong way, or not at all.

    ## What it does
    Multiplies all constant factors between the projections and the softmax, and compares with 1/√d, d the width of a head. Reported are
    1/d where two calls each contribute 1/√d (`q / √d` before `scaled_dot_product_attention`), 1/√d_model, √d, and no scale where the
    predicted logits have a standard deviation beyond 1.1. Learned temperatures, normalised queries and keys, an initialisation that
    makes up for it (T5), and a deliberate `scale=1/d` (μP) are not reported.

    ## Why is this bad
    Without the scale the variance of the logits is d times as large: the softmax picks one position and passes no gradient. With a
    scale that is too small it averages over all of them, and needs long to learn not to.

    ## Example
    ```python
    import torch.nn.functional as F
    from torch import nn

    INPUT = "4x12x64"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv = nn.Linear(64, 192)
            self.out = nn.Linear(64, 64)

        def forward(self, x):
            q, k, v = self.qkv(x).view(4, 12, 3, 4, 16).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(q / 16**0.5, k, v)
            return x + self.out(y.transpose(1, 2).reshape(4, 12, 64))
    ```

    ## Use instead
    ```python
    import torch.nn.functional as F
    from torch import nn

    INPUT = "4x12x64"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv = nn.Linear(64, 192)
            self.out = nn.Linear(64, 64)

        def forward(self, x):
            q, k, v = self.qkv(x).view(4, 12, 3, 4, 16).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(q, k, v)
            return x + self.out(y.transpose(1, 2).reshape(4, 12, 64))
    ```

    ## References
    * Vaswani et al. 2017, *Attention is all you need*, section 3.2.1 and footnote 4
    """
    for each in attentions(context):
        said = _said(context, each)
        if said is None:
            continue
        summary = context.analysis.of(each.logits)
        std = f" (predicted standard deviation of the logits: {summary.std:.3g})" if summary.std == summary.std else ""
        yield Found(
            message=f"the logits are scaled by {each.scale:.4g}, {said}; 1/√{each.width} = {each.width**-0.5:.4g} is expected{std}.",
            module=each.softmax.module,
            source=each.product.source or place(context, each.softmax.module, each.softmax),
            evidence={"scale": each.scale, "expected": each.width**-0.5, "width": each.width, "std": summary.std},
            remedy=f"Scale by {each.width}**-0.5 once; scaled_dot_product_attention does so itself.",
            fix=Fix("Scale by 1/√d once", "unsafe"),
            entity="scale",
            group=f"{said}:{each.product.source}",
        )


def _said(context: Context, each: Attention) -> str | None:
    """What is wrong with the scale; None where nothing is, or where it is not to be judged."""
    d, scale = each.width, each.scale
    if each.learned or d < 2:
        return None
    right = d**-0.5
    if _near(scale, right):
        return None
    if _near(scale, 1 / d) and sum(_near(factor, right) for factor in each.factors.values()) >= 2:
        return "which is 1/√d twice"
    if _near(scale, math.sqrt(d)):
        return "which is √d: a factor that should divide"
    widths = {each.query.inputs, each.query.outputs} if each.query is not None else set[int]()
    if any(width > d and _near(scale, width**-0.5) for width in widths):
        return "by the width of the model rather than that of a head"
    if each.query is not None and each.query.kind == "convolution":
        return None  # attention over a map is unscaled by convention (Wang, Girshick, Gupta and He 2018, embedded Gaussian)
    std = context.analysis.of(each.logits).std
    return "so not at all" if _near(scale, 1.0) and std > LARGE else None


def _near(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=2e-3)
