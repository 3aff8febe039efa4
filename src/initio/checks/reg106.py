"""REG106: layers that lost their attribute to the next one."""

from __future__ import annotations

from collections.abc import Iterator

from initio.checks.framework import Context, Found, check


@check("REG106", "shadowed-attribute", "warning")
def shadowed_attribute(context: Context) -> Iterator[Found]:
    """A loop assigns every layer to one attribute: only the last is left.

    ## What it does
    Watches the constructor: reported is a module that loses its attribute to another one which the same line of the same call assigns, and
    that the finished model holds nowhere else. A head that is replaced later, or by a subclass, is not reported, nor is a layer that
    was put into a list meanwhile.

    ## Why is this bad
    The overwritten layers are gone: the model has fewer layers than its constructor reads.

    ## Example
    ```python
    from torch import nn

    INPUT = "4x16"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            for _ in range(3):
                self.layer = nn.Linear(16, 16)

        def forward(self, x):
            return self.layer(x)
    ```

    ## Use instead
    ```python
    from torch import nn

    INPUT = "4x16"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList()
            for _ in range(3):
                self.layers.append(nn.Linear(16, 16))

        def forward(self, x):
            for layer in self.layers:
                x = layer(x)
                x = x.relu()
            return x
    ```

    ## References
    * [torch.nn.ModuleList](https://pytorch.org/docs/stable/generated/torch.nn.ModuleList.html)
    """
    for lost in context.tree.overwritten:
        weights = f" with {lost.trainable:,} weights" if lost.trainable else ""
        yield Found(
            message=f"self.{lost.attribute} is assigned {lost.times + 1} times by one line: {lost.times} {lost.kind}{weights} are gone.",
            module=lost.owner,
            source=lost.source,
            evidence={"lost": lost.times, "weights": lost.trainable, "attribute": lost.attribute},
            remedy=f"Collect the layers in an nn.ModuleList, and call each of them in place of self.{lost.attribute}.",
            entity=lost.attribute,
            group=f"{lost.source}:{lost.attribute}",
        )
