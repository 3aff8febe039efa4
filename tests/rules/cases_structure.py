"""Views, slices, joins, shuffles and their adjoints: exact, as the maps are linear."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from initio.core.pieces import cut
from rules.harness import Case, Joined, Normal, Spec, View, components

x = Normal((2, 6, 3), components(3), mean=0.4)
kinds = Normal((2, 6, 3), components(3), profile={1: ((1, 2, 2, 2, 2, 1), (0.5, 0, 0, 0, 0, 0.5))})
square = Normal((4, 3), components(2), mean=0.3)
image = Normal((1, 4, 2, 4), components(4), mean=0.3)
y = Normal((2, 2, 3), components(3), mean=-0.2)
z = Normal((2, 3, 3), components(3), mean=0.1, profile={1: ((1, 1, 3), (0, 0, 1))})
both = Joined([y, z], 1)
rectified = Joined([y.then("relu"), z.then("relu")], 1)


def cut_of(inner: Spec, start: int, stop: int) -> View:
    shape = (inner.shape[0], stop - start, *inner.shape[2:])
    return View(inner, shape, lambda m: cut(m, 1, start, stop), lambda t: t[:, start:stop])


def case(op: str, *args: Any, name: str = "", run: Callable[..., Any] | None = None, **kwargs: Any) -> Case:
    return Case(f"aten.{op}", args, kwargs, name=name, run=run, linear=True)


VIEWS = [
    case("view", x, [2, 2, 9]),
    case("view", x, [6, 6], name="joined"),
    case("view", kinds, [2, 3, 2, 3], name="kinds"),
    case("_unsafe_view", x, [12, 3]),
    case("reshape", x, [4, 9]),
    case("flatten.using_ints", x, 0, 1),
    case("unflatten.int", x, 1, [2, 3]),
    case("_reshape_alias", x, [6, 6], [6, 1]),
    case("view_as", x, Normal((2, 18)), run=lambda a, _b: a.reshape(2, 18)),
    case("squeeze.dim", Normal((2, 1, 3), components(3)), 1),
    case("unsqueeze", square, 1),
    *[case(op, x) for op in ("clone", "detach", "alias", "contiguous", "positive")],
    *[case(op, x, run=lambda a: a.clone()) for op in ("lift_fresh", "lift_fresh_copy")],
    case("_to_copy", x, run=lambda a: a.clone()),
    case("to.dtype", x, torch.float64),
    case("copy", Normal((2, 6, 3)), square := Normal((6, 3), components(2), mean=0.3), run=lambda a, b: a * 0 + b),
    Case("prims.view_of.default", (x,), run=lambda a: a.clone(), linear=True),
    Case("initio.view_whole.default", (x,), run=lambda a: a.clone(), linear=True),
    case("view.dtype", x, torch.float64, run=lambda a: a.clone()),
    case("as_strided", x, [2, 6, 3], [18, 3, 1], run=lambda a: a.clone()),
    case("permute", kinds, [2, 0, 1]),
    case("transpose.int", x, 0, -1),
    case("swapaxes", x, 1, 2),
    case("t", square),
    case("numpy_T", square),
    case("adjoint", x),
    case("mT", x),
    case("movedim.int", x, 0, 2),
    case("expand", Normal((2, 1, 3), components(3)), [2, 4, 3]),
    case("expand_as", Normal((1, 3), components(2)), Normal((2, 3)), run=lambda a, b: a.expand(2, 3) + 0 * b),
    case("broadcast_to", Normal((3,), 1.0), [2, 3]),
    case("repeat", square, [2, 1, 2]),
    case("tile", square, [2, 1]),
    case("repeat_interleave.self_int", square, 2, 1),
    case("repeat_interleave.self_int", square, 2, name="flat"),
]

CUTS = [
    case("select.int", kinds, 1, 0),
    case("select.int", kinds, 1, -2, name="middle"),
    case("slice.Tensor", kinds, 1, 1, 5),
    case("slice.Tensor", x, 1, 0, 6, 2, name="stepped"),
    case("narrow", x, 1, 1, 2),
    case("split.Tensor", kinds, 4, 1),
    case("split.sizes", x, [2, 4], 1, run=lambda a: a.split([2, 4], 1)),
    case("split_with_sizes", x, [1, 3, 2], 1),
    case("unsafe_split.Tensor", x, 4, 1),
    case("unsafe_split_with_sizes", x, [1, 3, 2], 1, run=lambda a: a.split([1, 3, 2], 1)),
    case("unsafe_chunk", x, 3, 1),
    case("chunk", x, 2, 1),
    case("tensor_split.sections", x, 4, 1),
    case("unbind.int", z, 1),
    case("flip", kinds, [1, 2]),
    case("roll", kinds, [2, 1], [1, 2]),
    case("roll", Normal((2, 3), {(0, 1): 1.0, (): 0.3}), [2], name="flat"),
    case("slice_backward", y, [2, 6, 3], 1, 2, 4, 1),
    case("slice_backward", z, [2, 6, 3], 1, 0, 6, 2, name="stepped"),
    case("select_backward", Normal((2, 3), components(2)), [2, 4, 3], 1, -1),
    case("constant_pad_nd", kinds, [1, 0, 2, 1]),
    case("constant_pad_nd", kinds, [0, 0, -1, 2], 1.5, name="value, cut"),
]

JOINS = [
    case("cat", [x, y, z], 1),
    case("concat", [y, z], 1),
    case("cat", [x, y, x], 1, name="twice the same"),
    Case("aten.cat", ([cut_of(kinds, 0, 2), cut_of(kinds, 2, 6)], 1), name="slices of kinds"),
    Case("aten.cat", ([cut_of(kinds, 3, 6), cut_of(kinds, 0, 3)], 1), name="slices of kinds exchanged"),
    Case("aten.cat", ([cut_of(kinds, 4, 6), y, cut_of(kinds, 1, 3)], 1), name="slices of kinds around another"),
    Case("aten.cat", ([cut_of(both, 1, 3), cut_of(both, 3, 5)], 1), name="slices of a concatenation"),
    Case("aten.slice.Tensor", (rectified, 1, 2, 5), name="a piece of a concatenation"),
    Case("aten.mul.Tensor", (cut_of(rectified, 2, 5), z.then("relu")), name="a piece of a concatenation with itself"),
    Case("aten.add.Tensor", (rectified, Joined([y, z], 1)), name="pieces with what they are functions of"),
    case("stack", [y, Normal((2, 2, 3), components(3), mean=1.0)], 1),
]

SHUFFLES = [
    case("pixel_shuffle", image, 2),
    case("pixel_unshuffle", image, 2),
    case("channel_shuffle", image, 2),
    case("native_channel_shuffle", image, 2),
]


def _window(base: tuple[int, ...], take: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    whole = torch.empty(base)
    part = take(whole)
    return {"size": tuple(part.shape), "stride": part.stride(), "offset": part.storage_offset(), "base_stride": whole.stride()}


def _written(take: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    def run(base: Tensor, part: Tensor) -> Tensor:
        place = torch.zeros(base.shape, dtype=base.dtype)
        take(place).fill_(1)
        index = torch.zeros(base.shape, dtype=torch.long)
        take(index).copy_(torch.arange(part.numel()).reshape(part.shape))
        return torch.where(place > 0, part.reshape(-1)[index], base)

    return run


_TAKEN: list[tuple[str, Callable[[Tensor], Tensor]]] = [
    ("slice", lambda t: t[:, 1:3]),
    ("index", lambda t: t[:, 2]),
    ("two slices", lambda t: t[:, 3:5, 1:]),
    ("steps", lambda t: t[:, ::2]),
    ("transposed", lambda t: t[1:, 1:4].transpose(1, 2)),
]
WINDOWS = [
    made
    for name, take in _TAKEN
    for made in (
        Case("initio.view_of.default", (kinds, _window((2, 6, 3), take)), name=name, run=take, linear=True),
        Case(
            "initio.scatter_view.default",
            (kinds, Normal(take(torch.empty(2, 6, 3)).shape, 2.0, mean=0.5), _window((2, 6, 3), take)),
            name=name,
            run=_written(take),
            linear=True,
        ),
    )
]

CASES = [*VIEWS, *CUTS, *JOINS, *SHUFFLES, *WINDOWS]
