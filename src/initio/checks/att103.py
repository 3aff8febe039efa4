"""ATT103: an input without influence."""

from __future__ import annotations

from collections.abc import Iterator

from initio.checks.framework import Context, Found, check
from initio.checks.graph import reached


@check("ATT103", "ignored-input", "warning")
def ignored_input(context: Context) -> Iterator[Found]:
    """An input, such as a mask, that no output depends on.

    ## What it does
    Follows every input of the step through the record. Reported is one that reaches neither an output nor the loss: it is never read, or
    the result of what reads it is dropped (`scores.masked_fill(...)` without an assignment). Inputs with fixed contents are not judged:
    what follows from them alone is computed before.

    ## Why is this bad
    Padding is attended to, a condition is not conditioned on; the model trains all the same, and worse.

    ## Example
    ```python
    from torch import nn

    INPUT = {"x": "4x12x16", "mask": "4x12:bool(0.8)"}

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.score = nn.Linear(16, 1)
            self.head = nn.Linear(16, 2)

        def forward(self, x, mask):
            scores = self.score(x).squeeze(-1)
            scores.masked_fill(~mask, -1e9)
            return self.head((scores.softmax(1)[:, :, None] * x).sum(1))
    ```

    ## Use instead
    ```python
    from torch import nn

    INPUT = {"x": "4x12x16", "mask": "4x12:bool(0.8)"}

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.score = nn.Linear(16, 1)
            self.head = nn.Linear(16, 2)

        def forward(self, x, mask):
            scores = self.score(x).squeeze(-1)
            scores = scores.masked_fill(~mask, -1e9)
            return self.head((scores.softmax(1)[:, :, None] * x).sum(1))
    ```

    ## References
    * [torch.Tensor.masked_fill](https://pytorch.org/docs/stable/generated/torch.Tensor.masked_fill.html): out of place
    """
    record = context.record
    ends = {output.value for output in record.outputs} | ({record.loss} if record.loss is not None else set[int]())
    if not ends or len(record.inputs) < 2:
        return
    for item in record.inputs:
        if item.value in record.constants or not ends.isdisjoint(reached(record, [item.value])):
            continue
        first = next((node for node in context.consumers.get(item.value, ()) if node.phase != "backward"), None)
        said = "it is read, and what is made of it is dropped" if first is not None else "it is never read"
        root = next((call.source for call in record.calls if call.source is not None), None)
        defined = context.tree.modules[0].defined if context.tree.modules else None
        yield Found(
            message=f"no output depends on the input {item.name!r}: {said}.",
            module=first.module if first is not None else "",
            source=first.source if first is not None else defined or root,
            evidence={"input": item.name},
            remedy="Use it, or assign the result of the out-of-place operation; else remove the argument.",
            entity=item.name,
        )
