"""REG101: modules that the model uses and torch does not know."""

from __future__ import annotations

from collections.abc import Iterator

from initio.checks.framework import Context, Found, check
from initio.core.finding import Fix

WRAPPERS = {"list": "nn.ModuleList", "tuple": "nn.ModuleList", "set": "nn.ModuleList", "dict": "nn.ModuleDict"}


@check("REG101", "unregistered-submodule", "error")
def unregistered_submodule(context: Context) -> Iterator[Found]:
    """Modules kept in a list, tuple, dict, set or dataclass are invisible to torch.

    ## What it does
    Looks for modules that hang on the model through a plain container, are registered nowhere else, and
    are called in the step, with trainable parameters or a dependence on the training mode. Modules without either (a list of
    activations), and frozen ones (a teacher that is hidden on purpose) are not reported.

    ## Why is this bad
    `parameters()` does not yield their weights: the optimiser never trains them, `.to(device)` leaves them behind, `state_dict()`
    does not save them, and `.eval()` does not reach them. Python reports none of it.

    ## Example
    ```python
    from torch import nn

    INPUT = "4x16"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = [nn.Linear(16, 16) for _ in range(3)]
            self.head = nn.Linear(16, 2)

        def forward(self, x):
            for layer in self.layers:
                x = layer(x).relu()
            return self.head(x)
    ```

    ## Use instead
    ```python
    from torch import nn

    INPUT = "4x16"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))
            self.head = nn.Linear(16, 2)

        def forward(self, x):
            for layer in self.layers:
                x = layer(x).relu()
            return self.head(x)
    ```

    ## References
    * [pytorch#666](https://github.com/pytorch/pytorch/issues/666), [pytorch#715](https://github.com/pytorch/pytorch/issues/715)
    * [torch.nn.ModuleList](https://pytorch.org/docs/stable/generated/torch.nn.ModuleList.html)
    """
    held: dict[tuple[str, str], list[int]] = {}
    modules = context.tree.modules
    called = {call.module for call in context.record.calls}
    for position, module in enumerate(modules):
        if not module.registered:
            held.setdefault((module.owner, module.attribute), []).append(position)
    for (owner, attribute), positions in held.items():
        inside = [modules[position] for position in positions]
        parameters = sum(module.trainable for module in inside)
        modal = [module for module in inside if module.mode]
        if not (parameters or modal) or not any(module.path in called for module in inside):
            continue
        first = next(module for module in inside if module.trainable or module.mode)
        what = f"{parameters:,} trainable weights" if parameters else f"{len(modal)} layers that must follow train() and eval()"
        wrapper = WRAPPERS.get(first.container)
        yield Found(
            message=f"a plain {first.container} keeps {len(inside)} modules ({what}) out of parameters(), state_dict() and .to().",
            module=owner,
            source=first.assigned or first.source,
            evidence={"modules": len(inside), "parameters": parameters, "attribute": attribute},
            remedy=f"Wrap it: self.{attribute} = {wrapper}(...)." if wrapper else "Keep the modules as attributes of the module itself.",
            fix=Fix(f"Wrap self.{attribute} in {wrapper}", "unsafe") if wrapper else None,
            also=tuple(module.path for module in inside if module.trainable or module.mode),
            entity=attribute,
        )
