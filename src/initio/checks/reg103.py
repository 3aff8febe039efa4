"""REG103: constants that torch does not know of."""

from __future__ import annotations

import math
from collections.abc import Iterator

from initio.checks.framework import Context, Found, check
from initio.core.finding import Fix
from initio.core.record import Loose


@check("REG103", "tensor-should-be-buffer", "warning")
def tensor_should_be_buffer(context: Context) -> Iterator[Found]:
    """A constant tensor computes in the forward pass without being a buffer.

    ## What it does
    Looks for tensors that a module holds as plain attributes, made in its constructor, that the step computes with. Silent where the model
    moves the tensor to the device itself, where it stands for positions only, and on single numbers: those work on every device.

    ## Why is this bad
    `.to(device)` moves parameters and buffers only: on a GPU the forward pass raises, or the tensor is copied there in every step.
    `.half()` does not reach it either.

    ## Example
    ```python
    import torch
    from torch import nn

    INPUT = "4x16"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.shift = torch.linspace(-1, 1, 16)
            self.linear = nn.Linear(16, 2)

        def forward(self, x):
            return self.linear(x + self.shift)
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    INPUT = "4x16"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("shift", torch.linspace(-1, 1, 16))
            self.linear = nn.Linear(16, 2)

        def forward(self, x):
            return self.linear(x + self.shift)
    ```

    ## References
    * [torch.nn.Module.register_buffer](https://pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.register_buffer)
    """
    held: dict[tuple[str, str], list[Loose]] = {}
    for loose in context.record.loose:
        plain = not loose.requires_grad and not loose.parameter and loose.shape
        if plain and loose.used and not loose.moved and not loose.indexes:
            held.setdefault((loose.owner, loose.attribute), []).append(loose)
    for (owner, attribute), tensors in held.items():
        entries = sum(math.prod(tensor.shape) for tensor in tensors)
        shape = "x".join(map(str, tensors[0].shape))
        what = f"a constant of shape {shape}" if len(tensors) == 1 else f"{len(tensors)} constants in a {tensors[0].container}"
        yield Found(
            message=f"{what} is computed with and stays behind when the model moves to another device or dtype.",
            module=owner,
            source=context.assigned(owner, attribute) or tensors[0].source,
            evidence={"tensors": len(tensors), "entries": entries, "attribute": attribute},
            remedy=f'Register it: self.register_buffer("{attribute}", ..., persistent=False).',
            fix=None if tensors[0].container else Fix(f"Register self.{attribute} as a buffer", "safe"),
            entity=attribute,
            group=f"{context.kind(owner)}.{attribute}",
        )
