"""The law that one recorded operation gives to the tensor it writes."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

from initio.capture.geometry import Geometry, full
from initio.capture.laws import constant, describe_values, drawn, image
from initio.capture.replay import Blank, Known, Piece, Read, Replay, elementwise, pieces_of
from initio.core.distribution import Distribution

__all__ = ["laws_written", "parts_written"]

MAX_PARTS = 64

_SAME = {"clone", "_to_copy", "copy_", "contiguous", "_unsafe_view", "_reshape_copy", "view_copy", "_clone_dim_order", "to", "expand_copy"}
_CREATED = {"zeros": 0.0, "zeros_like": 0.0, "new_zeros": 0.0, "zero_": 0.0, "ones": 1.0, "ones_like": 1.0, "new_ones": 1.0}
_FILLED = {"scalar_tensor": 0, "fill_": 1, "full": 1, "full_like": 1, "new_full": 2}


def laws_written(
    func: Any, name: str, args: Any, kwargs: dict[str, Any], target: Tensor, out: int | None, random: bool
) -> list[Piece] | None:
    """Boxes and laws of what `func(*args, **kwargs)` wrote in `target`, its `out`-th result or a mutated argument.

    Tensors in the arguments stand as `Read`, `Known` or `Blank`. None: only a replay knows.
    """
    shape = tuple(target.shape)

    def single(law: Distribution | None) -> list[Piece] | None:
        return None if law is None else [Piece(full(shape), law)]

    if random:
        rest = [arg for arg in args if not isinstance(arg, (Blank, Read, Known))] if name.endswith("_") else list(args)
        if name == "normal" and any(isinstance(arg, (Read, Known)) for arg in args):
            return None
        return single(drawn(name, shape, rest, kwargs))
    if name in _CREATED:
        return single(constant(_CREATED[name], shape))
    if name in _FILLED:
        value = _scalar(args[_FILLED[name]] if len(args) > _FILLED[name] else kwargs.get("fill_value", kwargs.get("value")))
        return single(constant(value, shape)) if isinstance(value, (int, float)) else None
    if name in _SAME:
        source = args[1] if name == "copy_" else args[0]
        return _copied(source, shape, target.dtype)
    if name == "linalg_qr" and out == 0:
        law = _single(args[0])
        if law is not None and law.family == "normal" and law.mean == 0 and len(shape) == 2:
            return single(Distribution("orthogonal", {"gain": 1.0}, shape))
        return None
    base = name.rstrip("_")
    if base == "mul" and elementwise(func) and len(args) == 2 and _unitary(args[0], args[1]):
        return _pieces(args[0])
    if elementwise(func):
        return _elementwise(func, base, args, kwargs, shape, target.dtype)
    if base == "cat" and len(tree_flatten(args[0])[0]) > 0:
        return _concatenated(args, kwargs, shape)
    return None


def parts_written(name: str, args: Any, kwargs: dict[str, Any], geometry: Geometry) -> list[tuple[Geometry, float]] | None:
    """Regions and constants that an in-place operation wrote, leaving the rest of its target alone; None where it may not."""
    if name == "fill_diagonal_" and len(geometry.size) == 2 and not (args[2] if len(args) > 2 else kwargs.get("wrap", False)):
        diagonal = Geometry((min(geometry.size),), (sum(geometry.stride),), geometry.offset, geometry.itemsize)
        return [(diagonal, float(args[1]))] if isinstance(args[1], (int, float)) else None
    if name == "index_put_":
        axis, index = _one_index(args[1])
        value, accumulate = _scalar(args[2]), args[3] if len(args) > 3 else kwargs.get("accumulate", False)
    elif name in ("index_fill_", "masked_fill_"):
        axis, index = (int(args[1]), args[2]) if name == "index_fill_" else (0, args[1])
        value, accumulate = _scalar(args[3] if name == "index_fill_" else args[2]), False
    else:
        return None
    if not isinstance(index, (Known, Read)) or value is None or accumulate:
        return None
    if isinstance(index, Read) and index.cell.random(index.version):
        return None
    rows = index.tensor if isinstance(index, Known) else Replay(0).read(index)
    if rows.dtype is torch.bool:
        while rows.dim() > 1 and rows.shape[-1] == 1 and name == "masked_fill_":
            rows = rows.squeeze(-1)
        rows = rows.nonzero().squeeze(-1) if rows.dim() == 1 and rows.shape[0] == geometry.size[axis] else rows[None, None]
    if rows.dim() > 1 or rows.numel() > MAX_PARTS:
        return None
    parts: list[tuple[Geometry, float]] = []
    for row in rows.reshape(-1).tolist():
        box = tuple((row % n, row % n + 1, 1) if d == axis % len(geometry.size) else (0, n, 1) for d, n in enumerate(geometry.size))
        parts.append((geometry.part(box), float(value)))
    return parts


def _one_index(indices: Any) -> tuple[int, Any]:
    """The dimension and index of an indexing by one tensor; (0, None) of any other."""
    given = [(d, index) for d, index in enumerate(indices) if index is not None]
    return given[0] if len(given) == 1 else (0, None)


def _pieces(leaf: Any) -> list[Piece] | None:
    if isinstance(leaf, Read):
        return pieces_of(leaf)
    if isinstance(leaf, Known):
        return [Piece(full(leaf.tensor.shape), describe_values(leaf.tensor))]
    return None


def _single(leaf: Any) -> Distribution | None:
    """The one law of a tensor argument."""
    pieces = _pieces(leaf)
    return pieces[0].law if pieces is not None and len(pieces) == 1 else None


def _scalar(leaf: Any) -> Any:
    """A number, where the argument is one or a tensor of equal known entries."""
    if isinstance(leaf, (Read, Known)):
        law = _single(leaf)
        if law is not None:
            return law.parameters["value"] if law.family == "constant" else None
        if isinstance(leaf, Read) and leaf.geometry.numel == 1 and not leaf.cell.random(leaf.version):
            return Replay(0).read(leaf).item()
        return None
    return leaf


def _copied(source: Any, shape: tuple[int, ...], dtype: torch.dtype) -> list[Piece] | None:
    pieces = _pieces(source)
    size = source.geometry.size if isinstance(source, Read) else tuple(source.tensor.shape) if isinstance(source, Known) else None
    kind = source.dtype if isinstance(source, Read) else source.tensor.dtype if isinstance(source, Known) else None
    if pieces is None or kind is None:
        return None
    if kind != dtype and not (dtype.is_floating_point and (kind.is_floating_point or not kind.is_complex)):
        return None
    if size == shape:
        return pieces
    if len(pieces) == 1 and pieces[0].law is not None:
        law = pieces[0].law
        if law.family == "constant":
            return [Piece(full(shape), constant(law.parameters["value"], shape, law.note))]
        if size is not None and math.prod(size) == math.prod(shape) and law.family not in ("orthogonal", "parts"):
            return [Piece(full(shape), Distribution(law.family, law.parameters, shape, note=law.note))]
    return None


def _elementwise(func: Any, base: str, args: Any, kwargs: dict[str, Any], shape: tuple[int, ...], dtype: torch.dtype) -> list[Piece] | None:
    leaves = tree_flatten((args, kwargs))[0]
    if any(isinstance(leaf, Blank) for leaf in leaves):
        return None
    fixed = {id(leaf): _scalar(leaf) for leaf in leaves if isinstance(leaf, (Read, Known))}
    if all(value is not None for value in fixed.values()):

        def known(leaf: Any) -> Any:
            if not isinstance(leaf, (Read, Known)):
                return leaf
            return torch.tensor(fixed[id(leaf)], dtype=leaf.dtype if isinstance(leaf, Read) else leaf.tensor.dtype)

        known_args, known_kwargs = tree_map(known, (args, kwargs))
        result = func(*known_args, **known_kwargs)
        return [Piece(full(shape), constant(float(result), shape))] if isinstance(result, Tensor) and not result.is_complex() else None
    varying = [leaf for leaf in leaves if isinstance(leaf, (Read, Known)) and fixed[id(leaf)] is None]
    if len(varying) != 1 or not dtype.is_floating_point:
        return None
    pieces = _pieces(varying[0])
    size = varying[0].geometry.size if isinstance(varying[0], Read) else tuple(varying[0].tensor.shape)
    if pieces is None or size != shape:
        return None

    def mapped(law: Distribution | None) -> Distribution | None:
        if law is None:
            return None
        row = [law if arg is varying[0] else fixed.get(id(arg), arg) for arg in args]
        return image(base, row, {key: fixed.get(id(value), value) for key, value in kwargs.items()})

    return [Piece(piece.box, mapped(piece.law)) for piece in pieces]


def _unitary(matrix: Any, signs: Any) -> bool:
    """Whether an orthogonal matrix is multiplied by the signs of its triangular factor, as a QR draw ends."""
    law = _single(matrix)
    if law is None or law.family != "orthogonal" or not isinstance(signs, Read):
        return False
    writes = signs.cell.live(signs.version)
    return len(writes) == 1 and getattr(writes[0].node.func, "overloadpacket", None) in (torch.ops.aten.sign, torch.ops.aten.sgn)


def _concatenated(args: Any, kwargs: dict[str, Any], shape: tuple[int, ...]) -> list[Piece] | None:
    axis = int(args[1] if len(args) > 1 else kwargs.get("dim", 0)) % max(len(shape), 1)
    start, found = 0, list[Piece]()
    for part in args[0]:
        size = part.geometry.size if isinstance(part, Read) else tuple(part.tensor.shape)
        pieces = _pieces(part)
        if pieces is None or len(size) != len(shape):
            return None
        for piece in pieces:
            a, b, step = piece.box[axis]
            box = (*piece.box[:axis], (a + start, b + start, step), *piece.box[axis + 1 :])
            found.append(Piece(box, piece.law))
        start += size[axis]
    first = found[0].law if found else None
    if first is None or first.family in ("orthogonal", "values", "program", "parts"):
        return found
    if any(piece.law is None or (piece.law.family, piece.law.parameters) != (first.family, first.parameters) for piece in found):
        return found
    return [Piece(full(shape), Distribution(first.family, first.parameters, shape))]
