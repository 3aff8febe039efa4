"""The construction of a model without its weights, and the initial distribution of every parameter and buffer."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportPrivateUsage=false

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from initio.capture.below import Values
from initio.capture.births import Origins, births
from initio.capture.laws import constant, describe_values
from initio.capture.loose import held_tensors
from initio.capture.measured import measure
from initio.capture.modules import Tree
from initio.capture.recorder import Recorder
from initio.capture.replay import UNINITIALISED, Read, Replay, TooLargeError, labels_of, pieces_of, schema_name
from initio.core.distribution import Distribution, Part
from initio.core.record import Source
from initio.core.tree import Overwritten

__all__ = ["Construction", "construct", "describe", "isolated", "sample_parameter"]

MAX_INITIAL = 1 << 20
"""Entries up to which known initial values are kept."""


@dataclass(frozen=True)
class Construction:
    """A model as its constructor leaves it.

    `model` has its parameters on the meta device where `origin` is "drawn", and is the caller's own
    module where it is "values". `distributions` covers every parameter and buffer by its first name;
    `sources` gives the line that made the owning module, `module_sources` that of each module path.
    `initial` holds small known values that are not constant. `copies` groups the
    names of parameters with the same random entries. Lazy parameters, whose shape is not known
    before the first call, have no entry and are named in `notes`.
    """

    model: nn.Module
    distributions: dict[str, Distribution]
    origin: Literal["drawn", "values"]
    sources: dict[str, Source] = field(default_factory=dict[str, Source])
    module_sources: dict[str, Source] = field(default_factory=dict[str, Source])
    initial: Mapping[str, np.ndarray[Any, Any]] = field(default_factory=dict[str, "np.ndarray[Any, Any]"])
    notes: tuple[str, ...] = ()
    copies: tuple[tuple[str, ...], ...] = ()
    overwritten: tuple[Overwritten, ...] = ()


def construct(factory: Callable[[], nn.Module]) -> Construction:
    """Run `factory` with parameters that have no storage, and read what its initialisation draws.

    An exception of the factory propagates unchanged. The states of the random number generators of
    torch, numpy and random are put back. Raises `TypeError` if the factory does not return a module.
    """
    recorder, origins = Recorder(), Origins()
    with isolated():
        with births(recorder, origins), recorder, Values(recorder):
            model: Any = factory()
        if not isinstance(model, nn.Module):
            raise TypeError(f"the factory must return a torch.nn.Module, but it returned {type(model).__name__}")
        tensors = list(_named(model))
        if not any(recorder.cell(t) is not None for _, t, buffer in tensors if not buffer) and not any(t.is_meta for _, t, _ in tensors):
            built = describe(model)
            lost = tuple(origins.lost(Tree(model).paths))
            return Construction(
                model, built.distributions, "values", *_sources(model, origins), built.initial, built.notes, built.copies, lost
            )
        distributions, initial, notes = _read(recorder, tensors)
        copies = _copies(recorder, tensors)
        _materialise(recorder, model)
    sources, module_sources = _sources(model, origins)
    lost = tuple(origins.lost(Tree(model).paths))
    return Construction(model, distributions, "drawn", sources, module_sources, initial, tuple(notes), copies, lost)


def describe(model: nn.Module) -> Construction:
    """Describe the present values of a built module: each tensor is a constant, or has a mean and a standard deviation.

    Raises `ValueError` for parameters on the meta device, which have no values.
    """
    distributions: dict[str, Distribution] = {}
    notes: list[str] = []
    hollow = [name for name, tensor, _ in _named(model) if tensor.is_meta]
    if hollow:
        raise ValueError(
            f"{len(hollow)} tensors of the model are on the meta device and have no values (first: {hollow[0]!r}). "
            "Pass a function that builds the model, so that its initialisation can be recorded, or a model with real weights."
        )
    for name, tensor, _ in _named(model):
        if _lazy(tensor):
            notes.append(_LAZY.format(name))
        else:
            distributions[name] = describe_values(tensor)
    return Construction(model, distributions, "values", notes=tuple(notes), copies=_equal(list(_named(model))))


def _copies(recorder: Recorder, tensors: list[tuple[str, Tensor, bool]]) -> tuple[tuple[str, ...], ...]:
    """Parameters whose entries are one draw, copied: the same program at the end of a chain of whole copies."""
    groups: dict[Any, list[str]] = {}
    for name, tensor, buffer in tensors:
        if buffer or _lazy(tensor) or recorder.cell(tensor) is None:
            continue
        read = recorder.reading(tensor)
        while True:
            live = read.cell.live(read.version)
            sources = [leaf for leaf in live[0].node.leaves if isinstance(leaf, Read)] if len(live) == 1 else []
            copied = len(sources) == 1 and schema_name(live[0].node.func) in ("clone", "copy_", "_to_copy") and live[0].box is None
            if not copied or sources[0].geometry.size != live[0].geometry.size:
                break
            read = sources[0]
        if read.cell.random(read.version) and math.prod(read.geometry.size) > 1:
            groups.setdefault((id(read.cell), read.version, read.geometry), []).append(name)
    return tuple(tuple(names) for names in groups.values() if len(names) > 1)


def _equal(tensors: list[tuple[str, Tensor, bool]]) -> tuple[tuple[str, ...], ...]:
    """Parameters of a built module with equal entries that no constant explains."""
    groups: dict[Any, list[tuple[str, Tensor]]] = {}
    for name, tensor, buffer in tensors:
        if buffer or _lazy(tensor) or tensor.numel() < 2 or tensor.layout is not torch.strided:
            continue
        some = tensor.detach().flatten()[:16].tolist()
        if len(set(some)) > 1:
            groups.setdefault((tuple(tensor.shape), str(some)), []).append((name, tensor))
    equal = [[name for name, tensor in group if torch.equal(tensor, group[0][1])] for group in groups.values()]
    return tuple(tuple(names) for names in equal if len(names) > 1)


def sample_parameter(distribution: Distribution, *, dtype: torch.dtype = torch.float32, generator: torch.Generator | None = None) -> Tensor:
    """A real tensor of `distribution.shape` drawn from it.

    Families known only by their moments (`values`, `program`) are drawn as normal with these moments.
    """
    p, shape = distribution.parameters, distribution.shape
    work = dtype if dtype in (torch.float32, torch.float64) else torch.float32
    tensor = torch.empty(shape, dtype=work)
    match distribution.family:
        case "constant":
            tensor.fill_(p["value"])
        case "uniform":
            tensor.uniform_(p["low"], p["high"], generator=generator)
        case "truncated_normal":
            low, high = (math.erf((p[k] - p["mean"]) / p["std"] / math.sqrt(2)) for k in ("low", "high"))
            tensor.uniform_(low, high, generator=generator).erfinv_().mul_(p["std"] * math.sqrt(2)).add_(p["mean"]).clamp_(
                p["low"], p["high"]
            )
        case "orthogonal":
            nn.init.orthogonal_(tensor, p["gain"], generator=generator)
        case "integers":
            return torch.randint(int(p["low"]), int(p["high"]), shape, generator=generator).to(dtype)
        case "bernoulli":
            tensor.bernoulli_(p["p"], generator=generator)
        case "parts":
            tensor.zero_()
            for part in distribution.parts:
                inside = tuple(slice(*triple) for triple in part.index)
                tensor[inside] = sample_parameter(part.distribution, dtype=work, generator=generator).reshape(tensor[inside].shape)
        case "normal" | "values" | "program":
            tensor.normal_(distribution.mean, distribution.std, generator=generator)
        case other:
            raise ValueError(f"no sampler for the distribution family {other!r}")
    return tensor.to(dtype)


_LAZY = "{} is lazy: its shape is known only after a first call of the model; run the model once and pass it as built"


def _lazy(tensor: Tensor) -> bool:
    return is_lazy(tensor)


def _named(model: nn.Module) -> Iterator[tuple[str, Tensor, bool]]:
    """(first name, tensor, whether it is a buffer) of all, those of modules in plain containers included."""
    tree, seen = Tree(model), set[int]()
    for of in ("parameters", "buffers"):
        for name, _, _, tensor in tree.tensors(of):
            if id(tensor) not in seen:
                seen.add(id(tensor))
                yield name, tensor, of == "buffers"
    for held in held_tensors(tree.modules):
        plain = type(held.tensor) in (Tensor, nn.Parameter) and held.tensor.layout is torch.strided and held.tensor.is_leaf
        if plain and (held.tensor.requires_grad or held.tensor.is_meta):
            yield held.name, held.tensor, False


@contextmanager
def isolated() -> Generator[None]:
    """Fixed seeds inside, the caller's generator states and warning filters afterwards."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*non-meta parameter in the checkpoint to a meta parameter.*")
            torch.default_generator.manual_seed(0)
            np.random.seed(0)
            random.seed(0)
            yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


def _read(recorder: Recorder, tensors: list[tuple[str, Tensor, bool]]) -> tuple[dict[str, Distribution], dict[str, Any], list[str]]:
    distributions: dict[str, Distribution] = {}
    initial: dict[str, Any] = {}
    notes: list[str] = []
    memo: dict[Any, Any] = {}
    for name, tensor, buffer in tensors:
        if _lazy(tensor):
            notes.append(_LAZY.format(name))
            continue
        followed = recorder.cell(tensor)
        if followed is None and not tensor.is_meta:
            law = describe_values(tensor)
            content = tensor
        else:
            read = recorder.reading(tensor)
            law = _distribution(name, read, memo)
            content = None
            if law.family in ("values", "parts") and not read.cell.random(read.version) and tensor.numel() <= MAX_INITIAL:
                content = Replay(0).read(read)
        distributions[name] = law
        if law.note == UNINITIALISED:
            notes.append(f"{name} is {UNINITIALISED}")
        if not buffer and content is not None and law.family in ("values", "parts") and content.numel() <= MAX_INITIAL:
            plain = content.detach()
            initial[name] = (plain.float() if plain.dtype is torch.bfloat16 else plain).resolve_conj().numpy().copy()
    return distributions, initial, notes


def _distribution(name: str, read: Read, memo: dict[Any, Any]) -> Distribution:
    """The law of a followed tensor at the end of the construction."""
    shape = read.geometry.size
    try:
        pieces = pieces_of(read)
        if pieces is None:
            mixture = _mixture(read)
            if mixture is not None:
                return mixture
        laws = measure(read, pieces, memo)
    except TooLargeError:
        raise MemoryError(
            f"the initial distribution of {name!r} (shape {shape}) has no closed form here, "
            "and replaying its initialisation needs too much memory; initialise it with functions of torch.nn.init, or pass the built model"
        ) from None
    if len(laws) == 1:
        return laws[0][1]
    return Distribution("parts", {}, shape, tuple(Part(box, law) for box, law in laws))


def _mixture(read: Read) -> Distribution | None:
    """Moments of interleaved regions, from the number of entries of each."""
    found = labels_of(read)
    writes = read.cell.live(read.version)
    if found is None or any(write.law is None or write.law.family == "values" for write in writes):
        return None
    values, counts = np.unique(found[0], return_counts=True)
    laws = [writes[label - 1].law if label else constant(0.0) for label in values.tolist()]
    weights = counts / counts.sum()
    mean = sum(w * law.mean for w, law in zip(weights, laws, strict=True) if law is not None)
    second = sum(w * law.second for w, law in zip(weights, laws, strict=True) if law is not None)
    note = "interleaved " + ", ".join(sorted({str(law) for law in laws}))
    return Distribution("program", {"mean": float(mean), "std": math.sqrt(max(second - mean * mean, 0.0))}, read.geometry.size, note=note)


def _materialise(recorder: Recorder, model: nn.Module) -> None:
    """Give known buffers their values: masks and tables decide what a model computes."""
    made: dict[int, Tensor] = {}
    for module in Tree(model).modules.values():
        for name, buffer in module._buffers.items():
            if buffer is None or not buffer.is_meta or _lazy(buffer):
                continue
            read = recorder.reading(buffer)
            if read.cell.random(read.version) or not read.cell.writes or buffer.numel() > 1 << 26:
                continue
            if id(buffer) not in made:
                made[id(buffer)] = Replay(0).read(read, private=True)
            module._buffers[name] = made[id(buffer)]


def _sources(model: nn.Module, origins: Origins) -> tuple[dict[str, Source], dict[str, Source]]:
    modules = {path: source for path, module in Tree(model).modules.items() if (source := origins.source(module)) is not None}
    sources = {name: modules[owner] for name, _, _ in _named(model) if (owner := name.rpartition(".")[0]) in modules}
    return sources, modules
