"""GRD101: layers that the forward pass never calls."""

from __future__ import annotations

from collections.abc import Iterator

from initio.checks.framework import Context, Found, check
from initio.checks.source import mentions
from initio.core.tree import ModuleNode


@check("GRD101", "unused-module", "warning")
def unused_module(context: Context) -> Iterator[Found]:
    """A layer with weights is registered and never called.

    ## What it does
    Finds registered modules with trainable weights that the step neither calls nor reads a weight of, in either mode. A module is not
    reported whose owner reads its attribute outside of the constructor: then another input or setting may call it; nor is one
    layer of a list whose use is decided at random.

    ## Why is this bad
    The layer was meant to do something. Its weights receive no gradient, so that distributed training waits for them, and weight decay
    shrinks them.

    ## Example
    ```python
    from torch import nn

    INPUT = "4x16"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(16, 16)
            self.second = nn.Linear(16, 16)
            self.head = nn.Linear(16, 2)

        def forward(self, x):
            x = self.first(x).relu()
            x = self.first(x).relu()
            return self.head(x)
    ```

    ## Use instead
    ```python
    from torch import nn

    INPUT = "4x16"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(16, 16)
            self.second = nn.Linear(16, 16)
            self.head = nn.Linear(16, 2)

        def forward(self, x):
            x = self.first(x).relu()
            x = self.second(x).relu()
            return self.head(x)
    ```

    ## References
    * [torch.nn.parallel.DistributedDataParallel](https://pytorch.org/docs/stable/generated/torch.nn.parallel.DistributedDataParallel.html):
      `find_unused_parameters`
    """
    record = context.record
    read = {value for node in record.nodes for value in node.inputs}
    used = {name.rpartition(".")[0] for p in record.parameters if p.value in read for name in p.names}
    used |= {call.module for call in record.calls}
    if context.evaluation is not None:
        used |= {call.module for call in context.evaluation.calls} if _unused(context, used) else set()
    for module in _unused(context, used):
        owner, _, attribute = module.path.rpartition(".")
        holder, siblings = _holder(context, owner, attribute)
        if holder is None or holder.defined is None or (not siblings and mentions(holder.defined, attribute)):
            continue
        if siblings and (not used.intersection(siblings) or _random(context)):
            continue
        weights = sum(m.trainable for m in context.tree.modules if m.path == module.path or m.path.startswith(module.path + "."))
        yield Found(
            message=f"{module.kind} is never called: {weights:,} weights take no part in the step.",
            module=module.path,
            source=context.made(module.path),
            evidence={"weights": weights},
            remedy=f"Call it in the forward pass of {holder.kind}, or remove it.",
            entity=attribute,
            group=f"{holder.kind}:{context.made(module.path)}",
        )


def _unused(context: Context, used: set[str]) -> list[ModuleNode]:
    """The topmost registered modules with trainable weights inside of which nothing is used."""
    found: list[ModuleNode] = []
    for module in context.tree.modules:
        if any(path in used for path in (module.path, *module.aliases)):
            continue
        inside = [m for m in context.tree.modules if m.path == module.path or m.path.startswith(module.path + ".")] if module.path else []
        if not inside or not module.registered or not any(m.trainable for m in inside):
            continue
        if any(module.path.startswith(top.path + ".") for top in found):
            continue
        if not any(path in used for m in inside for path in (m.path, *m.aliases)):
            found.append(module)
    return found


def _holder(context: Context, owner: str, attribute: str) -> tuple[ModuleNode | None, list[str]]:
    """The module whose code decides on a call, and the siblings of an entry of a container that can tell whether it is ever used."""
    node = context.modules.get(owner)
    if node is None or node.role != "container":
        return node, []
    siblings = [m.path for m in context.tree.modules if m.path.rpartition(".")[0] == owner]
    above, _, name = owner.rpartition(".")
    holder = context.modules.get(above)
    return holder, siblings or [name]


def _random(context: Context) -> bool:
    return any("random" in note for note in context.record.notes)
