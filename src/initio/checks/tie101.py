"""TIE101: parameters with several names, and ties that a copy has broken."""

from __future__ import annotations

from collections.abc import Iterator

from initio.checks.framework import Context, Found, check


@check("TIE101", "tied-weights", "note")
def tied_weights(context: Context) -> Iterator[Found]:
    """One parameter stands under several names; or two parameters that were one have been copied apart.

    ## What it does
    Counts the entries that are reachable under more than one name, which a sum over a state dict counts twice. Where two parameters of
    different layers (a head and an embedding) start as copies of one draw, the tie is broken, and the finding is a warning.

    ## Why is this bad
    A tie is a choice; the note says how large it is. A broken one (by `copy.deepcopy` of one of the two, or by copying the values in place
    of assigning the parameter) trains two tensors where one was meant.

    ## Example
    ```python
    from torch import nn

    INPUT = "2x8:int(50)"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(50, 16)
            nn.init.normal_(self.embed.weight, std=0.25)
            self.head = nn.Linear(16, 50, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, ids):
            return self.head(self.embed(ids))
    ```

    ## Use instead
    ```python
    from torch import nn

    INPUT = "2x8:int(50)"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(50, 16)
            self.head = nn.Linear(16, 50, bias=False)

        def forward(self, ids):
            return self.head(self.embed(ids))
    ```

    ## References
    * Press and Wolf 2017, *Using the output embedding to improve language models*
    """
    record = context.record
    parameters = {parameter.name: parameter for parameter in record.parameters}
    tied = [p for p in record.parameters if len(p.names) > 1 and not p.buffer]
    if tied:
        entries = sum(record.values[p.value].size for p in tied)
        largest = max(tied, key=lambda p: record.values[p.value].size)
        yield Found(
            message=f"{entries:,} parameters have more than one name ({' = '.join(largest.names[:3])}); they are counted once.",
            module=largest.names[0].rpartition(".")[0],
            source=largest.source,
            evidence={"entries": entries, "tensors": len(tied)},
            remedy="Nothing to do where the tie is meant; otherwise give each layer its own parameter.",
            also=tuple(dict.fromkeys(n.rpartition(".")[0] for p in tied for n in p.names[1:])),
            entity="tied",
        )
    for names in context.tree.copies:
        copies = [parameters[each] for each in names if parameters[each].trainable]
        kinds = {context.kind(p.name.rpartition(".")[0]) for p in copies}
        if len(copies) > 1 and len(kinds) > 1 and min(len(record.values[p.value].shape) for p in copies) > 1:
            first = copies[0]
            yield Found(
                message=f"{' and '.join(p.name for p in copies[:3])} start as copies of one draw and are trained apart: a broken tie.",
                module=first.name.rpartition(".")[0],
                source=first.source,
                evidence={"entries": record.values[first.value].size, "tensors": len(copies)},
                remedy="Assign the parameter itself (head.weight = embed.weight), after every copy.",
                also=tuple(p.name.rpartition(".")[0] for p in copies[1:]),
                entity="broken",
                severity="warning",
            )
