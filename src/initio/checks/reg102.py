"""REG102: trainable tensors that are no parameters of the model."""

from __future__ import annotations

import math
from collections.abc import Iterator

from initio.checks.framework import Context, Found, check
from initio.core.finding import Fix
from initio.core.record import Loose

WRAPPERS = {"list": "nn.ParameterList", "tuple": "nn.ParameterList", "dict": "nn.ParameterDict"}


@check("REG102", "unregistered-parameter", "error")
def unregistered_parameter(context: Context) -> Iterator[Found]:
    """A tensor with `requires_grad` computes in the forward pass, but no optimiser will see it.

    ## What it does
    Looks for tensors that require a gradient and hang on a module as a plain attribute, or for parameters in a plain list, tuple or dict,
    that the step computes with. A tensor that nothing reads is not reported.

    ## Why is this bad
    `requires_grad=True` makes a gradient, not a parameter: `parameters()` does not yield the tensor, so it is never trained; `.to(device)`
    leaves it behind, and `state_dict()` does not save it.

    ## Example
    ```python
    import torch
    from torch import nn

    INPUT = "4x16"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(16, 16)
            self.scale = torch.ones(16, requires_grad=True)

        def forward(self, x):
            return self.linear(x) * self.scale
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    INPUT = "4x16"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(16, 16)
            self.scale = nn.Parameter(torch.ones(16))

        def forward(self, x):
            return self.linear(x) * self.scale
    ```

    ## References
    * [torch.nn.parameter.Parameter](https://pytorch.org/docs/stable/generated/torch.nn.parameter.Parameter.html)
    * [pytorch#1053](https://github.com/pytorch/pytorch/issues/1053)
    """
    held: dict[tuple[str, str], list[Loose]] = {}
    for loose in context.record.loose:
        if loose.requires_grad and loose.used:
            held.setdefault((loose.owner, loose.attribute), []).append(loose)
    for (owner, attribute), tensors in held.items():
        first = tensors[0]
        entries = sum(math.prod(tensor.shape) for tensor in tensors)
        wrapper = WRAPPERS.get(first.container)
        if first.container:
            message = f"a plain {first.container} keeps {len(tensors)} trainable tensors ({entries:,} entries) out of parameters()."
            remedy = f"Wrap it: self.{attribute} = {wrapper}(...)." if wrapper else "Make each an attribute of the module itself."
        else:
            message = f"a plain tensor with requires_grad ({entries:,} entries) is no parameter: no optimiser trains it."
            remedy = f"Register it: self.{attribute} = nn.Parameter(...)."
        title = f"Wrap self.{attribute} in {wrapper or 'nn.Parameter'}" if wrapper or not first.container else ""
        yield Found(
            message=message,
            module=owner,
            source=context.assigned(owner, attribute) or first.source,
            evidence={"tensors": len(tensors), "entries": entries, "attribute": attribute},
            remedy=remedy,
            fix=Fix(title, "unsafe") if title else None,
            entity=attribute,
        )
