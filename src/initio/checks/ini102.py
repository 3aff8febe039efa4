"""INI102: layers that start as copies of each other."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from initio.checks.framework import Context, Found, check
from initio.checks.graph import name, reached


@check("INI102", "identical-layers", "warning")
def identical_layers(context: Context) -> Iterator[Found]:
    """Layers that were cloned by `copy.deepcopy` start with the same random weights.

    ## What it does
    Follows the random numbers of the constructor: reported are trainable layers of one kind whose weights are copies of one draw, and which
    are applied one after the other or to the same tensor. Frozen copies (a teacher, a momentum encoder), constant weights, and copies
    that see different features are not reported. `nn.TransformerEncoder` makes its layers this way.

    ## Why is this bad
    Side by side on one input, copies compute the same and receive the same gradient. One after the other, a matrix and its powers are no
    independent draws: what one layer attenuates, the next attenuates again.

    ## Example
    ```python
    import copy
    from torch import nn

    INPUT = "4x16"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            layer = nn.Linear(16, 16)
            self.layers = nn.ModuleList([copy.deepcopy(layer) for _ in range(4)])

        def forward(self, x):
            for layer in self.layers:
                x = layer(x).tanh()
            return x
    ```

    ## Use instead
    ```python
    import copy
    from torch import nn

    INPUT = "4x16"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            layer = nn.Linear(16, 16)
            self.layers = nn.ModuleList([copy.deepcopy(layer) for _ in range(4)])
            for each in self.layers:
                each.reset_parameters()

        def forward(self, x):
            for layer in self.layers:
                x = layer(x).tanh()
            return x
    ```

    ## References
    * [torch.nn.TransformerEncoder](https://pytorch.org/docs/stable/generated/torch.nn.TransformerEncoder.html): "All layers in the
      TransformerEncoder are initialized with the same parameters."
    """
    parameters = {parameter.name: parameter for parameter in context.record.parameters}
    groups: dict[tuple[str, ...], list[str]] = {}
    for names in context.tree.copies:
        owners = [each.rpartition(".")[0] for each in names if parameters[each].trainable and parameters[each].distribution.variance > 0]
        kinds = {(context.kind(owner), each.rpartition(".")[2]) for owner, each in zip(owners, names, strict=False)}
        if len(owners) > 1 and len(kinds) == 1:
            groups.setdefault(_tops(owners), []).extend(names)
    for tops, names in groups.items():
        if not _related(context, tops):
            continue
        yield Found(
            message=f"{len(tops)} {context.kind(tops[0])} start with the same {_entries(context, names):,} random weights: copies of one.",
            module=tops[0],
            source=context.made(tops[0]),
            evidence={"layers": len(tops), "tensors": len(names) // len(tops)},
            remedy="Make each layer anew, or call reset_parameters() on every copy.",
            also=tops[1:],
            entity=tops[0],
        )


def _tops(owners: list[str]) -> tuple[str, ...]:
    """The paths cut where they differ: `layers.0.linear`, `layers.1.linear` → `layers.0`, `layers.1`."""
    split = [owner.split(".") for owner in owners]
    shortest = min(map(len, split))
    place = next((i for i in range(shortest) if len({parts[i] for parts in split}) > 1), shortest - 1)
    return tuple(dict.fromkeys(".".join(parts[: place + 1]) for parts in split))


def _related(context: Context, tops: tuple[str, ...]) -> bool:
    """Whether the first calls of the copies share an input, or one feeds the next."""
    calls = [next((call for call in context.record.calls if call.module == top), None) for top in tops]
    ran = [call for call in calls if call is not None]
    for one, two in itertools.pairwise(ran):
        if set(one.inputs) & set(two.inputs):
            return True
        if reached(context.record, one.outputs, lambda node: name(node) == "detach").intersection(two.inputs):
            return True
    return False


def _entries(context: Context, names: list[str]) -> int:
    sizes = {parameter.name: context.record.values[parameter.value].size for parameter in context.record.parameters}
    return sum(sizes[each] for each in names) // max(1, len({each.rpartition(".")[0] for each in names}))
