"""RES101: an in-place operation that changes what the skip adds later."""

from __future__ import annotations

from collections.abc import Iterator

from initio.checks.affine import NONNEGATIVE, place
from initio.checks.framework import Context, Found, check
from initio.checks.graph import VIEWS, name, origin, same_line
from initio.checks.names import overwritten_names, read_names, rebound
from initio.core.finding import Fix
from initio.core.record import Node

SUMS = frozenset({"add", "sub", "cat", "stack", "rsub"})


@check("RES101", "inplace-corrupts-skip", "error")
def inplace_corrupts_skip(context: Context) -> Iterator[Found]:
    """An in-place operation in the branch overwrites the input that the skip adds afterwards.

    ## What it does
    Finds a tensor that is overwritten (`ReLU(inplace=True)`, `relu_()`, `x += …`) and that a later sum or concatenation reads under its old
    name: `identity = x`, or the caller's variable while the branch worked inside a module. `x = self.relu(x)`, which renames, is meant.

    ## Why is this bad
    Both names are one memory: the skip adds ReLU(x), not x. The identity path of the residual block is gone, and nothing raises.

    ## Example
    ```python
    from torch import nn

    INPUT = "4x8x16x16"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu = nn.ReLU(inplace=True)
            self.conv = nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x):
            x = x * 1.0
            out = self.conv(self.relu(x))
            return out + x
    ```

    ## Use instead
    ```python
    from torch import nn

    INPUT = "4x8x16x16"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu = nn.ReLU()
            self.conv = nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x):
            x = x * 1.0
            out = self.conv(self.relu(x))
            return out + x
    ```

    ## References
    * [torch.nn.ReLU](https://pytorch.org/docs/stable/generated/torch.nn.ReLU.html): `inplace`
    * He, Zhang, Ren and Sun 2016, *Identity mappings in deep residual networks*
    """
    for node in context.record.nodes:
        if node.phase != "forward" or not node.mutates or node.mutates[0] not in context.carrying or _nothing_changes(context, node):
            continue
        before, after = node.mutates[0], next((value for value in reversed(node.outputs) if value is not None), None)
        reader = None if after is None else _reader(context, node, before, after)
        if reader is None:
            continue
        line = f" (line {reader.source.line})" if reader.source is not None else ""
        yield Found(
            message=f"{node.op.split('.')[1]} overwrites the tensor that {name(reader)}{line} adds afterwards as if it were unchanged.",
            module=node.module or reader.module,
            source=place(context, node.module, node),
            evidence={"operation": node.op, "read": str(reader.source or reader.op)},
            remedy="Use inplace=False (or the operation without underscore) here.",
            fix=Fix("inplace=False", "unsafe"),
            also=(reader.module,) if reader.module and reader.module != node.module else (),
            entity=node.op,
            group=str(place(context, node.module, node)),
        )


def _nothing_changes(context: Context, node: Node) -> bool:
    """A ReLU of what is never negative writes what was there."""
    _, maker = origin(context, node.mutates[0])
    return name(node) == "relu" and maker is not None and name(maker) in NONNEGATIVE


def _reader(context: Context, node: Node, before: int, after: int) -> Node | None:
    """The sum that reads the new contents under an old name."""
    call = _enclosing(context, node, before, after)
    frame = _frame(context, node, before)
    old = overwritten_names(node.source) if node.source is not None and frame is not None else frozenset[str]()
    for reader in context.record.nodes[node.id + 1 :]:
        if reader.phase == "backward" or name(reader) not in SUMS or not any(_shows(context, value, after) for value in reader.inputs):
            continue
        if call >= 0 and not _within(context, reader.call, call):
            return reader
        if reader.source is None or node.source is None or reader.source.file != node.source.file or same_line(reader.source, node.source):
            continue
        if reader.call == frame and (old - rebound(node.source, reader.source)) & read_names(reader.source):
            return reader
    return None


def _frame(context: Context, node: Node, before: int) -> int | None:
    """The call whose code holds the operation's line; None where what that line hands over is not the tensor that is overwritten."""
    number = node.call
    while number >= 0:
        call = context.record.calls[number]
        if not same_line(call.source, node.source):
            return number
        if not any(_shows(context, before, value) for value in call.inputs):
            return None
        number = call.parent
    return number


def _shows(context: Context, value: int, target: int) -> bool:
    """Whether a value is a view of another: the same memory, the same contents."""
    while value != target:
        maker = context.producers.get(value)
        if maker is None or name(maker) not in VIEWS - {"clone", "_to_copy", "contiguous", "to"} or not maker.inputs:
            return False
        value = maker.inputs[0]
    return True


def _enclosing(context: Context, node: Node, before: int, after: int) -> int:
    """The outermost call around the operation that received the tensor and does not return it; -1 where there is none."""
    found, number = -1, node.call
    while number >= 0:
        call = context.record.calls[number]
        received = any(_shows(context, before, value) for value in call.inputs)
        returned = any(_shows(context, value, after) for value in call.outputs)
        if received and not returned and call.parent >= 0:
            found = number
        number = call.parent
    return found


def _within(context: Context, number: int, call: int) -> bool:
    while number >= 0:
        if number == call:
            return True
        number = context.record.calls[number].parent
    return False
