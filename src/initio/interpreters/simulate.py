"""Moments by drawing: small arrays with the given moments through the real operations, where no rule makes a claim.

One operation is simulated with its inputs drawn jointly. Where their joint law is not known, the module call around it is: its weights and
inputs are drawn, its operations replayed in order, forward and (with independent cotangents) backward, so that every dependence is the real
one. What comes out is labelled "simulated" and carries its standard error in `extra["error"]`.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportPrivateUsage=false

from __future__ import annotations

import ctypes
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from initio.capture.sampling import draw as draw_parameter
from initio.core.arrays import ClassSums, Drawer, UndrawableError, labels_of
from initio.core.axes import axis
from initio.core.moments import Moments, Unknown, fresh_source, worst
from initio.core.record import Node, Record, refs
from initio.interpreters.execute import Seeded, UnrunnableError, array, execute, working_dtype

__all__ = ["Simulator"]

DRAWS = 16
"""Draws of one operation and of a module call (at least two where it is large)."""
THIN = 20_000
"""Entries of such a value that its moments are taken from."""
INNER = 3
"""Draws of the values that only a replayed call itself sees."""
LARGEST = 1_000_000
"""Most entries of one tensor of a simulated operation."""
WORK = 1.5e10
"""Most multiplications of one draw of a module call."""
OVERHEAD = 2e5
"""Multiplications that take as long as calling one operation."""
FREED = 1 << 28
"""Bytes of values freed in a replay after which the system gets them back."""
SECONDS = 20.0
"""Processor time for all simulations of a record."""

Values = dict[int, "Moments | Unknown"]


@dataclass
class Simulator:
    """Simulates what the rules of a record leave open, within `seconds` of processor time."""

    record: Record
    values: Values
    seconds: float = SECONDS
    spent: float = 0.0
    _regions: dict[int, _Region | None] = field(default_factory=dict[int, "_Region | None"])
    _done: dict[tuple[int, bool], Values] = field(default_factory=dict[tuple[int, bool], "Values"])
    _final: set[int] = field(default_factory=set[int])
    _replayed: dict[int, int] = field(default_factory=dict[int, int])
    _parameters: dict[int, Any] = field(default_factory=dict[int, Any])

    def __post_init__(self) -> None:
        self._parameters = {p.value: p.distribution for p in self.record.parameters}
        named = {p.name: p.value for p in self.record.parameters}
        self._origin = {p.value: named.get(p.copy_of, p.value) for p in self.record.parameters}
        self._readers: dict[int, set[int]] = {}
        for n in self.record.nodes:
            if n.phase != "backward":
                for i in n.inputs:
                    if i in self._origin and self._parameters[i].variance != 0.0:
                        self._readers.setdefault(self._origin[i], set()).add(n.id)

    def fill(self, node: Node, reason: str) -> str | None:
        """Give the outputs of a node (and of the call that had to be replayed for it) simulated moments; why not, where that fails."""
        if self.spent > self.seconds:
            return f"{reason} (the time for simulations is used up)"
        start = time.process_time()
        try:
            return self._fill(node, reason)
        finally:
            self.spent += time.process_time() - start

    def _fill(self, node: Node, reason: str) -> str | None:
        trouble = ""
        for call in self._around(node):  # a replay that was needed before has drawn this node with its true dependences
            known = self._done.get((call, node.phase == "backward"), {})
            mine = {o: known[o] for o in node.outputs if o is not None and o in known}
            if mine and all(isinstance(x, Moments) for x in mine.values()):
                self.values.update(mine)
                return None
        if node.op.startswith("aten."):
            try:
                made = self._operation(node)
            except (_RefusedError, UnrunnableError) as error:
                trouble = str(error)
            else:
                self.values.update(made)
                return None
        for call in self._around(node):
            key = (call, node.phase == "backward")
            known = self._done.get(key, {})
            if not all(o in known for o in node.outputs if o is not None):
                try:
                    known = self._done[key] = self._call(call, node)
                    if self._region(call).reuses or key[1]:  # what follows depends on the same forward values
                        self._whole(call, known)
                except (_RefusedError, UnrunnableError) as error:
                    trouble = str(error)
                    if isinstance(error, _TooLargeError):
                        break
                    continue
            mine = {o: known[o] for o in node.outputs if o is not None and o in known}
            if mine and all(isinstance(x, Moments) for x in mine.values()):
                self.values.update(mine)
                return None
        return f"{reason}; not simulated: {trouble}" if trouble else reason

    def claimed(self, node: Node) -> bool:
        """Whether a replay has already given this node's outputs their moments (a call that uses a weight again is replayed as a whole)."""
        if not self._replayed:
            return False
        outputs = [o for o in node.outputs if o is not None]
        if all(o in self._final for o in outputs):
            return True
        if node.phase == "backward" and node.call in self._replayed and self.spent <= self.seconds:
            start = time.process_time()
            try:
                self._whole(self._replayed[node.call], self._call(self._replayed[node.call], node))
            except (_RefusedError, UnrunnableError):
                del self._replayed[node.call]
            finally:
                self.spent += time.process_time() - start
        return all(o in self._final for o in outputs)

    def _whole(self, call: int, made: Values) -> None:
        fresh = {o: x for o, x in made.items() if isinstance(x, Moments) and o not in self._final}
        self.values.update(fresh)
        self._final |= fresh.keys()
        self._replayed |= {n.call: call for n in self._region(call).forward}

    # -- one operation -------------------------------------------------------------------------------------------

    def _operation(self, node: Node) -> Values:
        inputs = list(dict.fromkeys(node.inputs))
        given = {i: self.values.get(i) for i in inputs}
        for i, x in given.items():
            if not isinstance(x, Moments):
                raise _RefusedError("an input has no moments")
            self._valued(i, x)
        keep = _fixed_dims(node)
        sizes = _shrink([given[i] for i in inputs if isinstance(given[i], Moments)], keep)  # type: ignore[misc]
        outputs = [o for o in node.outputs if o is not None]
        drawn = [math.prod(sizes.get(id(a), a.size) for a in x.axes) for x in given.values() if isinstance(x, Moments)]
        if max(drawn, default=0) > LARGEST or (not sizes and any(self.record.values[o].size > LARGEST for o in outputs)):
            raise _TooLargeError(f"{node.op} needs arrays of more than {LARGEST:,} entries")
        if node.phase == "backward" and self._share(*self._split(inputs)):
            raise _RefusedError("a cotangent that depends on the forward values beside it")
        collected: dict[int, list[Any]] = {o: [] for o in outputs}
        with Seeded(node.id):
            rng = np.random.default_rng(node.id)
            for _ in range(DRAWS):
                env = {}
                if node.phase == "backward":
                    late, early = self._split(inputs)
                    for part in (early, late):
                        env |= self._drawn(part, rng, sizes)
                else:
                    env |= self._drawn(inputs, rng, sizes)
                execute(node, env)
                for o in outputs:
                    got = env[o]
                    expected = self.record.values[o].shape
                    if tuple(got.shape) != expected and (not sizes or got.ndim != len(expected)):
                        raise _RefusedError(f"{node.op} gave shape {tuple(got.shape)}")
                    collected[o].append(array(got))
        claim = worst("simulated", *[x.claim for x in given.values() if isinstance(x, Moments)])
        sources = 0
        for x in given.values():
            sources |= x.sources if isinstance(x, Moments) else 0
        return {o: self._estimate(o, draws, sources | fresh_source(), claim) for o, draws in collected.items()}

    def _split(self, inputs: Sequence[int]) -> tuple[list[int], list[int]]:
        """Cotangents, and values of the forward pass: independent of each other in the wide limit."""
        late = [i for i in inputs if self._phase(i) == "backward"]
        return late, [i for i in inputs if i not in late]

    def _share(self, late: Sequence[int], early: Sequence[int]) -> bool:
        """Whether cotangents and forward values depend on a common source, so that they may not be drawn apart."""

        def sources(ids: Sequence[int]) -> int:
            found = 0
            for i in ids:
                x = self.values.get(i)
                if isinstance(x, Moments) and i not in self._parameters:
                    found |= x.sources
            return found

        return bool(sources(late) & sources(early))

    def _phase(self, value: int) -> str:
        maker = self._makers.get(value)
        if maker is not None:
            return maker.phase
        return "backward" if any(o.cotangent == value for o in self.record.outputs) else "forward"

    @property
    def _makers(self) -> dict[int, Node]:
        if not hasattr(self, "_made_by"):
            self._made_by = self.record.producers()
        return self._made_by

    # -- a module call -------------------------------------------------------------------------------------------

    def _around(self, node: Node) -> Iterator[int]:
        """Calls around a node, the innermost first, the whole step last."""
        at = node.call
        while at >= 0:
            yield at
            at = self.record.calls[at].parent
        yield -1

    def _region(self, call: int) -> _Region:
        found = self._regions.get(call)
        if found is None:
            found = self._regions[call] = _Region.of(self.record, call, self._origin)
        return found

    def _call(self, call: int, node: Node) -> Values:
        region = self._region(call)
        backward = node.phase == "backward"
        own = {n.id for n in region.forward}
        if any(not self._readers.get(self._origin[i], own) <= own for i in region.forward_inputs if i in self._origin):
            raise _RefusedError("a weight that other calls use too")
        if region.work > WORK:
            raise _TooLargeError(f"a step of {region.work:.1e} multiplications")
        before = self._boundary(region.forward_inputs)
        after: list[int] = []
        nodes = list(region.forward)
        if backward:
            reachable = set(region.forward_inputs) | {o for n in region.forward for o in n.outputs if o is not None}
            for n in region.backward:
                outside = [i for i in n.inputs if i not in reachable and i not in after]
                if all(isinstance(self.values.get(i), Moments) for i in outside):
                    after += outside
                    nodes.append(n)
                    reachable.update(o for o in n.outputs if o is not None)
            after = self._boundary(after)
            forward = [*before, *(o for n in region.forward for o in n.outputs if o is not None)]
            if self._share(after, forward) and not _contracted_first(after, region.backward):
                raise _RefusedError("a cotangent that depends on forward values of the call")
        wanted = {o for n in (nodes[len(region.forward) :] if backward else nodes) for o in n.outputs if o is not None}
        draws = int(np.clip(3 * WORK / max(region.work, 1.0), 2, DRAWS))
        sums: dict[int, Any] = {}
        inner = {o for o in wanted if o not in region.outward or self.record.values[o].size > LARGEST}
        spent = _last_uses(nodes)
        with Seeded(call + 1):
            rng = np.random.default_rng(call + 1)
            small: dict[int, list[Any]] = {o: [] for o in wanted if o not in inner}
            freed = 0
            for turn in range(draws):
                env = self._drawn(before, rng, {})
                env |= self._drawn(after, rng, {})
                for at, n in enumerate(nodes):
                    execute(n, env)
                    for o in n.outputs:
                        if o is None or o not in wanted or (o in inner and turn >= INNER):
                            continue
                        data = array(env[o])
                        if o in inner:
                            data = _thinned(data.reshape([m for m in data.shape if m != 1]), rng)
                            if o not in sums:
                                sums[o] = ClassSums([axis(m) for m in data.shape])
                            sums[o].add(data)
                        else:
                            small[o].append(data)
                    for i in spent[at]:
                        gone = env.pop(i, None)
                        freed += gone.nbytes if isinstance(gone, torch.Tensor) else 0
                    if freed > FREED:
                        freed = 0
                        _trim()
        claim = "simulated"
        reached: dict[int, int] = {}
        for i in (*before, *after):
            x = self.values[i]
            assert isinstance(x, Moments)
            reached[i] = x.sources
            claim = worst(claim, x.claim)
        bit = fresh_source()
        for n in nodes:
            sources = bit
            if n.phase == "backward" and n.op.split(".")[1] in _CONTRACTIONS:
                sources = fresh_source()  # cotangents behind a contraction are independent of the forward values in the wide limit
            else:
                for i in n.inputs:
                    sources |= reached.get(i, 0)
            reached |= {o: sources for o in n.outputs if o is not None}
        made: Values = {o: _moments(self.record.values[o].shape, s, reached[o], claim) for o, s in sums.items()}
        made |= {o: self._estimate(o, kept, reached[o], claim) for o, kept in small.items()}
        return made

    def _boundary(self, inputs: Sequence[int]) -> list[int]:
        for i in inputs:
            x = self.values.get(i)
            if not isinstance(x, Moments):
                raise _RefusedError("an input of the module has no moments")
            if i not in self._parameters:
                self._valued(i, x)
        return list(inputs)

    def _valued(self, i: int, x: Moments) -> None:
        value = self.record.values[i]
        if "mask" in x.extra and i not in self.record.constants and not bool(np.all(x.extra["mask"])):
            raise _RefusedError("logits behind a mask, whose moments leave out what is hidden")
        real = value.floating and not value.dtype.startswith("complex")
        if i in self.record.constants or real or (not value.floating and ("high" in x.extra or "known" in x.extra)):
            return
        raise _RefusedError(f"an input of type {value.dtype} whose law is not known")

    def _drawn(self, inputs: Sequence[int], rng: np.random.Generator, sizes: Mapping[int, int]) -> dict[int, Any]:
        drawer = Drawer(rng, sizes)
        env: dict[int, Any] = {}
        drawn: dict[int, Any] = {}
        for i in inputs:
            value = self.record.values[i]
            dtype = working_dtype(value.dtype)
            x = self.values[i]
            assert isinstance(x, Moments)
            if i in self.record.constants:
                env[i] = torch.from_numpy(np.array(self.record.constants[i])).to(dtype)
            elif i in self._parameters and not sizes:
                first = self._origin[i]
                if first not in drawn:
                    drawn[first] = draw_parameter(self._parameters[i], value.shape, dtype)
                env[i] = drawn[first]
            else:
                try:
                    env[i] = torch.from_numpy(np.ascontiguousarray(drawer.draw(x))).to(dtype)
                except UndrawableError as error:
                    raise _RefusedError(str(error)) from error
        return env

    def _estimate(self, out: int, draws: list[Any], sources: int, claim: str) -> Moments | Unknown:
        value = self.record.values[out]
        if draws[0].dtype.kind == "c":
            return Unknown("complex values are not simulated")
        if draws[0].dtype.kind == "i":
            return _ids(value.shape, draws, sources, claim)
        axes = []
        for d, n in enumerate(value.shape):
            if n != 1:
                axes.append(axis(draws[0].shape[d], labels_of(draws, d)))
        sums = ClassSums(axes)
        for data in draws:
            sums.add(data.reshape([a.size for a in axes]))
        return _moments(value.shape, sums, sources, claim)


class _RefusedError(Exception):
    """This cannot be simulated, for the reason given."""


class _TooLargeError(_RefusedError):
    """Too much work."""


@dataclass(frozen=True)
class _Region:
    """The nodes of a module call and of everything below it, what they read from outside, and which results are seen outside."""

    forward: tuple[Node, ...]
    backward: tuple[Node, ...]
    forward_inputs: tuple[int, ...]
    outward: frozenset[int]
    work: float
    reuses: bool

    @staticmethod
    def of(record: Record, call: int, origin: Mapping[int, int]) -> _Region:
        inside = {call}
        for c in record.calls:
            if c.parent in inside or call < 0:
                inside.add(c.id)
        chosen: list[Node] = []
        made: set[int] = set()
        for n in record.nodes:  # nodes of the backward pass that name no call belong to what they read
            if call < 0 or n.call in inside or (n.call < 0 and n.phase == "backward" and not made.isdisjoint(n.inputs)):
                chosen.append(n)
                made.update(o for o in n.outputs if o is not None)
        forward = [n for n in chosen if n.phase != "backward"]
        backward = [n for n in chosen if n.phase == "backward"]
        ids = {n.id for n in chosen}
        outward = {o for c in record.calls for o in (*c.outputs, *(x for x in c.cotangents if x is not None))}
        outward |= {p.gradient for p in record.parameters if p.gradient is not None}
        outward |= {v for n in record.nodes if n.id not in ids for v in n.inputs}
        reuses = _reuses(forward, origin)
        work = sum(OVERHEAD + _work(n, record) for n in chosen)
        return _Region(tuple(forward), tuple(backward), _outside(forward), frozenset(outward), work, reuses)


_VIEWS = frozenset({"t", "transpose", "view", "reshape", "_unsafe_view", "permute", "expand", "detach", "alias", "clone"})
_FREE = _VIEWS | {"slice", "select", "unbind", "split", "squeeze", "unsqueeze", "unsafe_split"}
_CONTRACTIONS = frozenset({"mm", "bmm", "addmm", "baddbmm", "linear", "matmul", "convolution", "mv", "addmv"})


def _reuses(nodes: Sequence[Node], parameters: Mapping[int, int]) -> bool:
    """Whether a weight (or a copy of its draw) is contracted more than once."""
    origin = dict(parameters)
    used: set[int] = set()
    for n in nodes:
        name = n.op.split(".")[1]
        found = [origin[i] for i in n.inputs if i in origin]
        if name in _VIEWS and found:
            origin |= {o: found[0] for o in n.outputs if o is not None}
        elif name in _CONTRACTIONS:
            weights = set(found[1:] if name in ("addmm", "baddbmm", "addmv") and len(found) > 1 else found)
            if weights & used:
                return True
            used |= weights
    return False


def _trim() -> None:
    """Give freed memory back to the system: glibc keeps it in pieces, which aligned tensors of one size do not fit again."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def _last_uses(nodes: Sequence[Node]) -> list[list[int]]:
    """The values that each node is the last to make or to read."""
    last = {i: at for at, n in enumerate(nodes) for i in (*n.inputs, *(o for o in n.outputs if o is not None))}
    spent: list[list[int]] = [[] for _ in nodes]
    for i, at in last.items():
        spent[at].append(i)
    return spent


def _contracted_first(cotangents: Sequence[int], nodes: Sequence[Node]) -> bool:
    """Whether the cotangents meet forward values in contractions alone, whose weights make them independent in the wide limit."""
    carried = set(cotangents)
    for n in nodes:
        if carried.isdisjoint(n.inputs):
            continue
        name = n.op.split(".")[1]
        if name in _FREE or name in ("sum", "_to_copy"):
            carried.update(o for o in n.outputs if o is not None)
        elif name not in _CONTRACTIONS and name != "convolution_backward":
            return False
    return True


def _outside(nodes: Sequence[Node]) -> tuple[int, ...]:
    made: set[int] = set()
    read: dict[int, None] = {}
    for n in nodes:
        for i in n.inputs:
            if i not in made:
                read.setdefault(i)
        made.update(o for o in n.outputs if o is not None)
    return tuple(read)


def _thinned(data: Any, rng: np.random.Generator) -> Any:
    """The array at random indices of its longest axes, so that its class averages stay unbiased and cheap."""
    while data.size > THIN:
        d = int(np.argmax(data.shape))
        keep = max(8, data.shape[d] // max(2, math.ceil(data.size / THIN)))
        if keep >= data.shape[d]:
            break
        data = np.take(data, np.sort(rng.choice(data.shape[d], keep, replace=False)), axis=d)
    return data


def _work(node: Node, record: Record) -> float:
    entries = sum(record.values[o].size for o in node.outputs if o is not None)
    name = node.op.split(".")[1]
    shapes = [record.values[i].shape for i in node.inputs]
    if name in ("mm", "bmm", "baddbmm", "addmm", "linear", "matmul") and shapes:
        return float(entries) * shapes[-2 if name not in ("linear",) else 0][-1]
    if "convolution" in name:
        return float(entries) * max((math.prod(s[1:]) for s in shapes if len(s) > 2), default=1)
    return 0.0 if name in _FREE else 8.0 * entries


# -- moments ----------------------------------------------------------------------------------------------------


def _moments(shape: Sequence[int], sums: ClassSums, sources: int, claim: str) -> Moments | Unknown:
    mean, gram, error = sums.result()
    if not (np.all(np.isfinite(gram)) and np.all(np.isfinite(mean))):
        return Unknown("simulated values are not finite")
    axes, at = [], 0
    for n in shape:
        if n != 1:
            drawn = sums.axes[at]
            axes.append(drawn if drawn.size == n else axis(n))
            at += 1
    if not np.any(gram):
        return Moments.gaussian(axes, [int(n != 1) for n in shape], mean, gram, 0, claim=claim)
    return Moments.gaussian(axes, [int(n != 1) for n in shape], mean, gram, sources, claim=claim, error=error)


def _ids(shape: Sequence[int], draws: Sequence[Any], sources: int, claim: str) -> Moments | Unknown:
    high = int(max(x.max(initial=0) for x in draws)) + 1
    if high > 4096 or min(x.min(initial=0) for x in draws) < 0 or draws[0].shape != tuple(shape):
        return Unknown("integers that are not ids")
    axes = [axis(n) for n in shape if n != 1]
    sums = ClassSums(axes)
    equal: Any = 0.0
    for value in range(high):
        each = ClassSums(axes)
        for x in draws:
            each.add((x == value).astype(float).reshape([a.size for a in axes]))
        equal = equal + each.result()[1]
    for x in draws:
        sums.add(x.astype(float).reshape([a.size for a in axes]))
    return Moments(tuple(axes), tuple(int(n != 1) for n in shape), sums.result()[0], equal, (), sources, 0, claim, {"high": high})


def _shrink(inputs: Sequence[Any], keep: frozenset[int]) -> dict[int, int]:
    """Fewer indices along exchangeable axes, where all inputs have one rank and the operation does not name the dimension."""
    total = sum(math.prod(x.shape) for x in inputs)
    if total <= LARGEST // 4 or not inputs:
        return {}
    rank = max(len(x.dims) for x in inputs)
    if None in keep or any(len(x.dims) != rank for x in inputs):  # type: ignore[operator]
        return {}
    sizes: dict[int, int] = {}
    fixed = {id(x.axes[i]) for x in inputs for d in range(rank) if d in keep or d - rank in keep for i in x.span(d)}
    for d in range(rank):
        for x in inputs:
            for i in x.span(d):
                a = x.axes[i]
                if id(a) not in fixed and a.K == 1 and a.size > 8:
                    sizes[id(a)] = 8
    return sizes


def _fixed_dims(node: Node) -> frozenset[Any]:
    """Dimensions that an operation names; None among them where it takes sizes."""
    space, name, overload = node.op.split(".")
    schema = getattr(getattr(getattr(torch.ops, space), name), overload)._schema.arguments
    found: set[Any] = set()
    given = dict(zip((a.name for a in schema), node.args, strict=False)) | dict(node.kwargs)
    for a in schema:
        value = given.get(a.name)
        if value is None or any(True for _ in refs(value)):
            continue
        if a.name in ("dim", "dims"):
            found |= set(value) if isinstance(value, (tuple, list)) else {value}
        elif "int" in str(a.type).lower() and not isinstance(value, bool):
            found.add(None)
    return frozenset(found)
