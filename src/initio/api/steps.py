"""Analyze, check, measure and compare: recording, propagation and checks joined into one call each."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from initio.core.analysis import ROUNDING, Analysis, Summary
from initio.core.errors import InitioError
from initio.core.inputs import InputSpec, normalise
from initio.core.record import Crash, Record
from initio.core.report import Report
from initio.core.tree import ModuleTree

if TYPE_CHECKING:
    from initio.interpreters.compare import Comparison
    from initio.interpreters.places import Wrap
    from initio.interpreters.sample import Key, Measurement

__all__ = ["Compared", "analyze", "check", "compare", "crash_error", "measure"]

MATCHING = ("mm", "addmm", "bmm", "baddbmm", "convolution")
"""Operations whose operands have one dtype."""
Loss = str | Callable[..., Any] | None


def analyze(model_or_factory: Any, inputs: Any, *, loss: Loss = None, train: bool = True) -> Analysis:
    """Predict the moments of every activation and gradient of one training step.

    A class or a factory is called under a recorder, so that every parameter has the distribution that the model's own code
    draws it from; a built module is described by its values. `inputs` is a shape, a text such as "2x128:int(50257)", a tensor, an
    `InputSpec`, several of those, or a dict by argument name. The default cotangent is an independent unit normal on every floating
    output; `loss` names one instead ("cross_entropy", "mse", …, "model": the loss that the model returns) or is a function of the output.

    Where the model's own code raises in the forward pass, the analysis holds what was recorded until then, and `record.crash`.

    Raises:
        InitioError: inputs that make no sense, a factory that fails or returns no module, NaN in a built module.
    """
    return _Step(model_or_factory, inputs, loss).analyze(train)


class _Step:
    """A constructed model with its inputs, ready to be analysed in either mode."""

    def __init__(self, model_or_factory: Any, inputs: Any, loss: Loss) -> None:
        self.args, self.kwargs = normalise(inputs)
        self.loss = loss
        self.construction, self.tree = _constructed(model_or_factory)
        _with_parameters(self.construction.model, self.tree)

    def analyze(self, train: bool, *, backward: bool = True, moments: bool = True) -> Analysis:
        """Record the step, and propagate moments through the record."""
        capture = importlib.import_module("initio.capture.program")
        settings = {"loss": self.loss, "train": train, "construction": self.construction, "backward": backward}
        try:
            record = capture.record(self.construction.model, self.args, self.kwargs, **settings)
        except capture.RecordingError as error:
            raise InitioError("a step that can be recorded", str(error), where="record") from error
        _matching(record)
        if not moments:
            return Analysis.build(record, {}, tree=self.tree)
        propagate = importlib.import_module("initio.interpreters.propagate")
        found = propagate.propagate(record)
        spreads = importlib.import_module("initio.interpreters.noise").spread(record, found)
        summaries = {value: _summary(m, spreads.get(value, math.nan)) for value, m in found.items()}
        return Analysis.build(record, summaries, tree=self.tree, waiting=propagate.waiting(record, found))

    def other(self, train: bool) -> Callable[[bool], Analysis | None]:
        """Makes the forward pass in the mode that is not `train`; None where it cannot be recorded."""

        def make(moments: bool) -> Analysis | None:
            try:
                found = self.analyze(not train, backward=False, moments=moments)
            except InitioError:
                return None
            return found if found.record.crash is None else None

        return make


def _with_parameters(model: Any, tree: ModuleTree) -> None:
    held = importlib.import_module("initio.capture.loose").held_tensors
    registered = any(node.trainable or node.parameters for node in tree.modules) or any(True for _ in model.parameters())
    if not registered and not any(each.tensor.requires_grad for each in held(dict(model.named_modules()))):
        remedy = "Register its layers as attributes, nn.ModuleList or nn.Parameter; there is nothing to initialise otherwise."
        raise InitioError("a model with parameters", f"{type(model).__name__} has none", where="model", remedy=remedy)


def _matching(record: Record) -> None:
    """Tensors without storage multiply whatever their dtypes; real ones refuse."""
    for node in record.nodes:
        if node.phase == "forward" and node.op.split(".")[1] in MATCHING:
            dtypes = list(dict.fromkeys(record.values[value].dtype for value in node.inputs))
            if len(dtypes) > 1:
                came = f"{node.op} in {node.module or 'the model'} got {' and '.join(dtypes)}"
                remedy = "Give the input the dtype of the weights, such as 8x3x224x224:float16 or 2x128:int(1000) for ids."
                raise InitioError("operands of one dtype", came, where=str(node.source or ""), remedy=remedy)


def _constructed(model_or_factory: Any) -> tuple[Any, ModuleTree]:
    import torch

    initializers = importlib.import_module("initio.capture.initializers")
    trees = importlib.import_module("initio.capture.tree")
    if isinstance(model_or_factory, torch.nn.Module):
        _finite(model_or_factory)
        construction = initializers.describe(model_or_factory)
        return construction, trees.module_tree(model_or_factory, construction.module_sources, construction)
    if not callable(model_or_factory):
        came = f"got {type(model_or_factory).__name__}"
        remedy = "Give a torch.nn.Module class, a function that builds one, or an instance."
        raise InitioError("a model or a factory", came, where="model_or_factory", remedy=remedy)
    name = getattr(model_or_factory, "__name__", type(model_or_factory).__name__)
    try:
        construction = initializers.construct(_returning_module(model_or_factory, name))
    except InitioError:
        raise
    except Exception as error:
        raise _unbuilt(name, model_or_factory, error) from error
    return construction, trees.module_tree(construction.model, construction.module_sources, construction)


def _returning_module(factory: Callable[[], Any], name: str) -> Callable[[], Any]:
    import torch

    def build() -> Any:
        model = factory()
        if not isinstance(model, torch.nn.Module):
            came = f"{name} returned {type(model).__name__}"
            raise InitioError(
                "a factory that returns a torch.nn.Module", came, where="model_or_factory", remedy="Return the model from it."
            )
        return model

    return build


def _unbuilt(name: str, factory: Any, error: Exception) -> InitioError:
    tail = error.__traceback__
    while tail is not None and tail.tb_next is not None:
        tail = tail.tb_next
    where = f"{tail.tb_frame.f_code.co_filename}:{tail.tb_lineno}" if tail is not None else name
    signature = ""
    with contextlib.suppress(TypeError, ValueError):
        signature = str(inspect.signature(factory))
    remedy = f"Calling {name}{signature} must build the model; give arguments by --arg name=value or in a function that needs none."
    return InitioError("a factory that builds the model", f"{name} raised {type(error).__name__}: {error}", where=where, remedy=remedy)


def _finite(model: Any) -> None:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        floating = tensor.is_floating_point() and not tensor.is_meta
        if floating and not bool(tensor.isfinite().all() if not name.endswith("mask") else (tensor == tensor).all()):  # masks hold -inf
            remedy = "Load sound weights, or give the class or a factory, so that its initialisation is read instead."
            raise InitioError("finite weights", f"{name} of {type(model).__name__} holds NaN or infinity", where="model", remedy=remedy)


def _summary(moments: Any, spread: float = math.nan) -> Summary:
    if moments.claim == "unknown":
        return Summary(math.nan, math.nan, "unknown", moments.reason)
    return Summary(float(moments.total_mean), float(moments.total_second), moments.claim, varying=_varying(moments), spread=spread)


def _varying(moments: Any) -> float:
    """E[x²] − E[x x′] over entries that agree in all but the first axis, the samples; NaN where the first dimension has size 1."""
    if not moments.dims or moments.dims[0] == 0:
        return math.nan
    samples = moments.axes[0]
    pairs = samples.pairs[: samples.K**2]
    if not pairs.sum():
        return math.nan
    average = moments.gram[(slice(0, samples.K**2), *(each.diagonal for each in moments.axes[1:]))]
    for each in moments.axes[:0:-1]:
        average = average @ (each.counts / each.size)
    second = float(moments.total_second)
    varying = float(second - average @ pairs / pairs.sum())
    return varying if abs(varying) > ROUNDING * second else 0.0


def crash_error(crash: Crash, model: str) -> InitioError:
    """The error that tells of a model whose own code raised."""
    operation = f" in {crash.op} of " + ", ".join("x".join(map(str, shape)) or "scalar" for shape in crash.shapes) if crash.op else ""
    inside = f" in module {crash.module!r}" if crash.module else ""
    remedy = "Check the input's shape and dtype (--input) against what that line expects; if they are right, the model is not."
    came = f"{crash.error} was raised{operation}{inside}: {crash.message.strip()}"
    return InitioError(f"{model} to run on this input", came, where=str(crash.source or ""), remedy=remedy)


def check(
    model_or_factory: Any,
    inputs: Any,
    *,
    loss: Loss = None,
    train: bool = True,
    select: Iterable[str] = (),
    ignore: Iterable[str] = (),
    target: str = "",
) -> Report:
    """Analyse a model and run the checks over it; `select` and `ignore` are prefixes of codes.

    Raises:
        InitioError: as `analyze`, and where the model's own code raises and no check says why.
    """
    framework = importlib.import_module("initio.checks.framework")
    select, ignore = tuple(select), tuple(ignore)
    framework.validate((*select, *ignore))
    step = _Step(model_or_factory, inputs, loss)
    analysis = step.analyze(train)
    name = target or getattr(model_or_factory, "__qualname__", type(model_or_factory).__name__)
    findings = framework.run(analysis, other=step.other(train))
    if analysis.record.crash is not None and not any(finding.code in framework.EXPLAINS_CRASH for finding in findings):
        raise crash_error(analysis.record.crash, name)
    return Report(name, findings, analysis).select(select, ignore)


def measure(
    model_or_factory: Any,
    inputs: Any,
    *,
    draws: int = 8,
    loss: Loss = None,
    train: bool = True,
    seed: int = 0,
    wrap: Wrap | None = None,
    progress: bool | None = None,
) -> Measurement:
    """Build and run the real model `draws` times, forward and backward, and average the moments of all outputs and gradients.

    `wrap` is applied to every model that is built, and returns it in its places: sharded by `fully_shard`, dispatched by accelerate's
    `dispatch_model`, in `DistributedDataParallel`. The numbers are those of one process: every rank must call `measure` with the same
    seed. An interrupt (Ctrl-C) keeps the draws that were finished.

    Raises:
        InitioError: inputs that are no tensors; a wrapper that returns no module, or other weights than were drawn.

    >>> from torch import nn
    >>> build = lambda: nn.Linear(512, 512)
    >>> found = measure(build, (64, 512), draws=4, wrap=lambda model: nn.DataParallel(model))
    >>> round(found.outputs["", 0, 0].second, 1)
    0.3
    """
    args, kwargs = normalise(inputs)
    specs = [*args, *(dataclasses.replace(spec, name=name) if isinstance(spec, InputSpec) else spec for name, spec in kwargs.items())]
    for spec in specs:
        if not isinstance(spec, InputSpec):
            remedy = "Bind other arguments in the factory, with functools.partial on forward, say."
            raise InitioError("tensor inputs to measure", f"got {spec!r}", where="inputs", remedy=remedy)
    if draws < 1:
        raise InitioError("at least one draw", f"{draws} came", where="draws", remedy="Eight give a usable standard error.")
    sample = importlib.import_module("initio.interpreters.sample")
    return sample.measure(model_or_factory, specs, draws=draws, loss=loss, train=train, seed=seed, wrap=wrap, progress=progress)


@dataclass(frozen=True, slots=True)
class Compared:
    """Prediction beside measurement: module outputs, the cotangents that arrive there, and parameter gradients."""

    outputs: Comparison[Key]
    cotangents: Comparison[Key]
    gradients: Comparison[str]


def compare(analysis: Analysis, measurement: Measurement, *, tolerance: float = 0.05, errors: float = 2.0) -> Compared:
    """Set every prediction beside its measurement; a row passes within `tolerance` of the rms or `errors` standard errors."""
    side = importlib.import_module("initio.interpreters.compare").compare
    outputs: dict[tuple[str, int, int], tuple[float, float, str]] = {}
    cotangents: dict[tuple[str, int, int], tuple[float, float, str]] = {}
    for call in analysis.record.calls:
        for position, value in enumerate(call.outputs):
            outputs[call.module, call.index, position] = _triple(analysis.of(value))
            cotangent = call.cotangents[position] if position < len(call.cotangents) else None
            if cotangent is not None:
                cotangents[call.module, call.index, position] = _triple(analysis.of(cotangent))
    gradients = {p.name: _triple(analysis.of(p.gradient)) for p in analysis.record.parameters if p.gradient is not None}
    options: Mapping[str, float] = {"tolerance": tolerance, "errors": errors}
    return Compared(
        side(outputs, measurement.outputs, **options),
        side(cotangents, measurement.cotangents, **options),
        side(gradients, measurement.gradients, **options),
    )


def _triple(summary: Summary) -> tuple[float, float, str]:
    return summary.mean, summary.second, summary.claim
