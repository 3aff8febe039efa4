"""REG105: one module in several places of one container."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from initio.checks.framework import Context, Found, check
from initio.checks.graph import name, reached
from initio.core.finding import Fix
from initio.core.tree import ModuleNode


@check("REG105", "repeated-instance", "error")
def repeated_instance(context: Context) -> Iterator[Found]:
    """`[layer] * n` holds one layer n times: one set of weights.

    ## What it does
    Finds a module with trainable weights that stands at several places of one container, where one call feeds the next or all calls read
    the same tensor. Not reported: a head that is tied to an embedding, modules without weights (a shared activation), a layer
    that a loop calls again and again by its one name, and a shared head that is applied to different features.

    ## Why is this bad
    The list looks like n layers; the optimiser sees one. Applied in a chain, it is a recurrent network; side by side on one input, its
    outputs are equal.

    ## Example
    ```python
    from torch import nn

    INPUT = "4x16"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(16, 16)] * 4)

        def forward(self, x):
            for layer in self.layers:
                x = layer(x).tanh()
            return x
    ```

    ## Use instead
    ```python
    from torch import nn

    INPUT = "4x16"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(16, 16) for _ in range(4)])

        def forward(self, x):
            for layer in self.layers:
                x = layer(x).tanh()
            return x
    ```

    ## References
    * [Python FAQ: How do I create a multidimensional list?](https://docs.python.org/3/faq/programming.html#faq-multidimensional-list)
    """
    told: list[str] = []
    for module in context.tree.modules:
        places = _places(module)
        if len(places) < 2 or any(module.path.startswith(path + ".") for path in told):
            continue
        weights = sum(m.trainable for m in context.tree.modules if m.path == module.path or m.path.startswith(module.path + "."))
        if not weights or not _chained(context, module.path):
            continue
        told.append(module.path)
        container = module.path.rpartition(".")[0]
        owner, _, attribute = container.rpartition(".")
        yield Found(
            message=f"{len(places)} entries of {container or 'the model'} are one {module.kind}: {weights:,} weights, "
            f"not {len(places)} × {weights:,}.",
            module=container,
            source=context.assigned(owner, attribute) or context.made(module.path),
            evidence={"times": len(places), "weights": weights},
            remedy=f"Make each its own: [{module.kind}(...) for _ in range({len(places)})].",
            fix=Fix(f"Make {len(places)} instances in a comprehension", "unsafe"),
            also=tuple(places),
            entity=module.path,
        )


def _places(module: ModuleNode) -> list[str]:
    """The paths of a module in the container that holds it most often."""
    paths = (module.path, *module.aliases)
    groups: dict[str, list[str]] = {}
    for path in paths:
        container, _, last = path.rpartition(".")
        if last.isdigit():
            groups.setdefault(container, []).append(path)
    return max(groups.values(), key=len, default=list[str]())


def _chained(context: Context, path: str) -> bool:
    """Whether consecutive calls of a module read the same tensor, or the next reads what the one before computed."""
    calls = [call for call in context.record.calls if call.module == path]
    if len(calls) < 2:
        return False
    for one, two in itertools.pairwise(calls):
        shared = set(one.inputs) & set(two.inputs)
        fed = reached(context.record, one.outputs, lambda node: name(node) == "detach").intersection(two.inputs)
        if not shared and not fed:
            return False
    return True
