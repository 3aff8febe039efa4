"""SHP103: a window larger than the map."""

from __future__ import annotations

import math
from collections.abc import Iterator

from initio.checks.affine import Affine, affines, place
from initio.checks.framework import Context, Found, check


@check("SHP103", "window-exceeds-map", "warning")
def window_exceeds_map(context: Context) -> Iterator[Found]:
    """Most taps of a convolution only ever see padding.

    ## What it does
    Counts, for every convolution on this input, the taps of its kernel that meet at least one position of the map. Reported is a layer
    where more than half of them never do: a 3×3 kernel on a 1×1 map, or a dilation beyond the map's size.

    ## Why is this bad
    Those weights have no influence and no gradient: the 3×3 kernel is a 1×1 kernel that costs nine times as much. The input is too
    small for this network, or the network reduces it too often.

    ## Example
    ```python
    from torch import nn

    INPUT = "4x8x8x8"

    def Model():
        return nn.Sequential(nn.Conv2d(8, 8, 3, padding=12, dilation=12), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10))
    ```

    ## Use instead
    ```python
    from torch import nn

    INPUT = "4x8x8x8"

    def Model():
        return nn.Sequential(nn.Conv2d(8, 8, 3, padding=2, dilation=2), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10))
    ```

    ## References
    * Chen, Papandreou, Schroff and Adam 2017, *Rethinking atrous convolution for semantic image segmentation*, section 3.3
    """
    for layer in affines(context):
        if layer.kind != "convolution" or layer.transposed:
            continue
        alive, taps = _alive(context, layer), math.prod(layer.kernel)
        if 2 * alive >= taps:
            continue
        shape = "x".join(map(str, context.record.values[layer.entering].shape[2:]))
        dilated = f" with dilation {layer.dilation[0]}" if any(step > 1 for step in layer.dilation) else ""
        source = place(context, layer.where, layer.node)
        yield Found(
            message=f"{alive} of {taps} taps of the {'x'.join(map(str, layer.kernel))} kernel{dilated} ever meet the {shape} map; the rest "
            f"see padding only.",
            module=layer.where,
            source=source,
            evidence={"alive": alive, "taps": taps, "map": shape},
            remedy="Give a larger input, reduce it less, or use a smaller kernel or dilation here.",
            entity="taps",
            group="taps",
        )


def _alive(context: Context, layer: Affine) -> int:
    """Taps that meet the map for some position of the window."""
    before, after = (context.record.values[value].shape[2:] for value in (layer.entering, layer.leaving))
    settings = zip(before, after, layer.kernel, layer.stride, layer.padding, layer.dilation, strict=True)
    return math.prod(sum(any(0 <= s * o - p + d * tap < n for o in range(m)) for tap in range(k)) for n, m, k, s, p, d in settings)
