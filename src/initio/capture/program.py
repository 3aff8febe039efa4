"""One training step of a model, recorded without its weights.

The model's own Python runs on `meta` tensors under two modes (`initio.capture.modes`); what it does, is recorded:

* **Known values.** Buffers, literals, `arange`, masks and whatever follows from them alone are computed for real;
  the operations that compute them are not nodes. A known value that another operation reads is in
  `Record.constants` and has no producer. Parameters are never known values, also where they start as zeros or ones.
* **In-place operations** and views are resolved by memory (`initio.capture.values`): an operation that writes
  appends its new values, in the order of its arguments, after those that it returns. Running statistics, which batch
  norm updates by side effect, keep their value.
* **Loose modules** (in plain lists, in attributes of other objects) are recorded under paths with brackets
  (`paths[3].0`), their parameters with `trainable=False`, since no optimiser will see them; a module made during the
  call is `~Class`. `Record.notes` names them.
* **Backward.** Each node stands in the module and at the source line of the forward operation that it differentiates;
  `function` is the name of autograd's node. Recomputed (checkpointed) operations are backward nodes as well.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportPrivateUsage=false

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from initio.capture.loose import Held, follows_moves, held_tensors
from initio.capture.losses import LOSSES, apply_loss
from initio.capture.modes import Events, Operations
from initio.capture.modules import Calls, Snapshot, Tree, named_tensors
from initio.capture.places import boundaries, user_source
from initio.capture.recording import Recorder
from initio.capture.rng import RandomState
from initio.capture.sampling import describe_values, draw
from initio.capture.shadows import Fill, constant_array
from initio.core.distribution import Distribution
from initio.core.inputs import InputSpec
from initio.core.record import Crash, Input, Loose, Output, Parameter, Record, Source

__all__ = ["Construction", "RecordingError", "record"]

REAL_LIMIT = 50_000_000
"""Parameters up to which a model that cannot run on `meta` is recorded with drawn weights instead."""


class RecordingError(ValueError):
    """The step cannot be recorded as asked; the message says what to change."""


class Construction(Protocol):
    """What the recording of a model's construction provides."""

    @property
    def model(self) -> nn.Module:
        """The module, its parameters on `meta`."""
        ...

    @property
    def distributions(self) -> Mapping[str, Distribution]:
        """The law of every parameter and buffer, by its first name."""
        ...

    @property
    def origin(self) -> Literal["drawn", "values"]:
        """Whether the laws were read from the initialisation code or from values."""
        ...

    @property
    def sources(self) -> Mapping[str, Source]:
        """The line that made each parameter's module."""
        ...


def record(
    model: nn.Module | Callable[..., Any],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    loss: str | Callable[..., Any] | None = None,
    train: bool = True,
    construction: Construction | None = None,
    backward: bool = True,
    input_gradients: bool = True,
) -> Record:
    """Record one step of `model(*args, **kwargs)`: forward, loss or unit-normal cotangents, backward.

    `args` and `kwargs` hold `InputSpec`s, other objects, and containers of both. `loss` is one of `cross_entropy`,
    `mse`, `bce_with_logits`, `nll` (random targets, recorded as the input `target`), `model` (the model's own loss
    output), or a function of the model's output; without one, every floating output receives an independent unit-normal
    cotangent. `input_gradients` says whether floating inputs require a gradient, as activations do. Parameters, buffers, modes, caches and random
    generators of a built model are as before afterwards.

    An error of the user's code does not raise: the record ends there and has a `crash`.
    Raises `RecordingError` for a `meta` parameter without a known distribution and for an unknown loss.
    """
    if isinstance(loss, str) and loss not in LOSSES:
        raise RecordingError(f"unknown loss {loss!r}: expected one of {', '.join(LOSSES)} or a function of the model's output")
    step = _Step(model, tuple(args), dict(kwargs or {}), loss, train, construction, backward, input_gradients)
    first = step.run(real=False)
    if first.crash is None or not step.doubtful(first.crash):
        return first
    if step.entries > REAL_LIMIT:
        return dataclasses.replace(first, notes=(*first.notes, _TOO_LARGE.format(step.entries / 1e6)))
    second = step.run(real=True)
    failed = f"{first.crash.op or 'the model'} failed ({first.crash.message[:200]})"
    why = f"recorded on real tensors drawn from the initial distributions: without contents, {failed}"
    return dataclasses.replace(second, notes=(*second.notes, why))


_TOO_LARGE = "the failing operation needs tensor contents; with {:.0f} M parameters the model is too large to be recorded on real tensors"
_DOUBT = re.compile(r"meta|fake|no data|data_ptr|storage|device|dynamic|kernel|dispatch|not implemented|HOP", re.IGNORECASE)


class _Step:
    """One call with everything that belongs to it; `run` may be called for each rung of the ladder."""

    def __init__(
        self,
        model: nn.Module | Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        loss: str | Callable[..., Any] | None,
        train: bool,
        construction: Construction | None,
        backward: bool,
        input_gradients: bool,
    ) -> None:
        self.model, self.args, self.kwargs = model, args, kwargs
        self.loss, self.train, self.construction, self.backward = loss, train, construction, backward
        self.input_gradients = input_gradients
        self.entries = 0
        self.assumed = False

    def doubtful(self, crash: Crash) -> bool:
        """Whether a crash may come from the missing contents rather than from the user's code."""
        return self.assumed or crash.error == "NotImplementedError" or _DOUBT.search(crash.message) is not None

    def run(self, real: bool) -> Record:
        """Record once."""
        return _Run(self, real).record()


class _Run:
    def __init__(self, step: _Step, real: bool) -> None:
        self.step = step
        self.real = real
        self.recorder = Recorder(real)
        self.tape = self.recorder.tape
        self.tree = Tree(step.model if isinstance(step.model, nn.Module) else None)
        self.calls = Calls(self.recorder, self.tree)
        self.parameters: list[tuple[Parameter, Tensor]] = []
        self.held: list[tuple[Held, Tensor]] = []
        self.inputs: list[tuple[Input, Tensor]] = []
        self.outputs: list[Output] = []
        self.loss_value: int | None = None
        self.crash: Crash | None = None

    def record(self) -> Record:
        step = self.step
        with ExitStack() as stack:
            stack.callback(self.recorder.memory.release)
            generators = stack.enter_context(RandomState())
            snapshot = Snapshot(self.tree)
            stack.callback(snapshot.restore)
            snapshot.substitute(self._stand_ins())
            if isinstance(step.model, nn.Module):
                step.model.train(step.train)
            args = tuple(self._input(item, name) for item, name in zip(step.args, self._names(), strict=True))
            kwargs = {key: self._input(item, key) for key, item in step.kwargs.items()}
            with _eager(), self.calls, Events(self.recorder), Operations(self.recorder):
                self._run(args, kwargs)
            if generators.used():
                self.tape.note("the forward pass draws from Python's or numpy's random generator: one outcome was recorded")
            del args, kwargs
            return self._finish()

    # what enters

    def _stand_ins(self) -> dict[int, Tensor]:
        step, tree = self.step, self.tree
        construction = step.construction
        known: Mapping[str, Distribution] = {} if construction is None else construction.distributions
        sources: Mapping[str, Source] = {} if construction is None else construction.sources
        origin = "values" if construction is None else construction.origin
        groups: Sequence[Sequence[str]] = () if construction is None else getattr(construction, "copies", ())
        initial: Mapping[str, Any] = {} if construction is None else getattr(construction, "initial", {})
        copied = {name: group[0] for group in groups for name in group[1:]}
        stand_ins: dict[int, Tensor] = {}
        step.entries = 0
        for of in ("parameters", "buffers"):
            names: dict[int, list[tuple[str, nn.Module, Tensor]]] = {}
            for name, module, _, tensor in tree.tensors(of):
                names.setdefault(id(tensor), []).append((name, module, tensor))
            for places in names.values():
                name, module, tensor = places[0]
                if is_lazy(tensor):
                    raise RecordingError(
                        f"{name} of {type(module).__name__} has no shape yet; run the lazy module once, or give it its sizes"
                    )
                law = next((known[n] for n, _, _ in places if n in known), None)
                if law is None and tensor.device.type != "meta":
                    law = describe_values(tensor)
                    from_values = True
                else:
                    from_values = False
                if law is None:
                    kind = of.removesuffix("s")
                    raise RecordingError(
                        f"{kind} {name} {tuple(tensor.shape)} lies on the meta device and its initial distribution is not known; "
                        "build the model through initio, or on the CPU"
                    )
                step.entries += tensor.numel() if of == "parameters" else 0
                twin = self._stand_in(tensor, law, of == "buffers")
                stand_ins[id(tensor)] = twin
                self.recorder.owners[id(twin)] = name.rpartition(".")[0]
                value = self.tape.source(twin)
                if of == "buffers" and law.family != "constant" and self.recorder.memory.known(twin):
                    self.tape.constants[value] = constant_array(self.recorder.memory.contents(twin))
                if of == "parameters" and law.family == "values" and origin == "drawn" and name in initial:
                    self.tape.constants[value] = initial[name]  # a table written by the constructor (sinusoids), not drawn
                loose = tree.loose_path(name.rpartition(".")[0])
                own = Parameter(
                    name,
                    tuple(n for n, _, _ in places),
                    value,
                    law,
                    "values" if from_values else origin,
                    of == "parameters" and tensor.requires_grad and not loose,
                    of == "buffers",
                    None,
                    next((sources[n] for n, _, _ in places if n in sources), None),
                    copied.get(name, ""),
                )
                self.parameters.append((own, twin))
        for held in held_tensors(tree.modules):
            stand_ins |= self._loose(held, known)
        return stand_ins

    def _loose(self, held: Held, known: Mapping[str, Distribution]) -> dict[int, Tensor]:
        """Follow a tensor that torch does not know of: with a gradient, or without contents, as a parameter that no optimiser sees."""
        tensor = held.tensor
        if type(tensor) not in (Tensor, nn.Parameter) or tensor.layout is not torch.strided or is_lazy(tensor):
            return {}
        twin = tensor
        if tensor.is_leaf and (tensor.requires_grad or tensor.device.type == "meta"):
            law = known.get(held.name)
            if law is None and tensor.device.type == "meta":
                return {}
            law = law or describe_values(tensor.detach())
            twin = self._stand_in(tensor, law, False)
            twin = twin if twin.requires_grad or not tensor.requires_grad else twin.requires_grad_()
            value = self.tape.source(twin)
            origin = "values" if self.step.construction is None else self.step.construction.origin
            self.parameters.append((Parameter(held.name, (held.name,), value, law, origin, False, not tensor.requires_grad), twin))
        self.held.append((held, twin))
        self.recorder.loose[id(twin)] = []
        return {} if twin is tensor else {id(tensor): twin}

    def _stand_in(self, tensor: Tensor, law: Distribution, buffer: bool) -> Tensor:
        memory = self.recorder.memory
        with torch.no_grad():
            if self.real:
                has_data = tensor.device.type != "meta"
                data = tensor.detach().cpu().clone() if has_data else draw(law, tuple(tensor.shape), tensor.dtype)
            elif tensor.device.type == "meta":
                data = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
            else:
                data = torch.empty_like(tensor.detach(), device="meta")
        if buffer and (tensor.device.type != "meta" or law.family == "constant"):
            cell = memory.cell(data)
            if self.real:
                cell.shadow = True
            elif tensor.device.type == "meta":
                cell.shadow = Fill(law.parameters["value"])
            else:
                flat = tensor.detach().cpu()
                if (
                    flat.stride() != data.stride()
                    or flat.storage_offset()
                    or flat.untyped_storage().nbytes() > 2 * data.untyped_storage().nbytes()
                ):
                    flat = torch.empty_strided(data.shape, data.stride(), dtype=data.dtype).copy_(flat)
                cell.shadow, cell.borrowed = flat.untyped_storage(), True
        if isinstance(tensor, nn.Parameter):
            twin: Tensor = nn.Parameter(data, requires_grad=tensor.requires_grad)
            if type(tensor) is not nn.Parameter:
                try:
                    twin.__class__ = type(tensor)
                except TypeError:
                    self.tape.note(f"a parameter of type {type(tensor).__name__} was recorded as a plain one")
            vars(twin).update({k: v for k, v in vars(tensor).items() if k != "_initio"})  # pyright: ignore[reportAttributeAccessIssue]
            return twin
        return data.requires_grad_(tensor.requires_grad) if tensor.requires_grad else data

    def _names(self) -> Iterator[str]:
        model = self.step.model
        try:
            names = [
                p.name if p.kind is not p.VAR_POSITIONAL else ""
                for p in inspect.signature(model.forward if isinstance(model, nn.Module) else model).parameters.values()
                if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)
            ]
        except (TypeError, ValueError):
            names = []
        for i in range(len(self.step.args)):
            yield names[i] if i < len(names) and names[i] else f"input{i}"

    def _input(self, item: Any, name: str) -> Any:
        if isinstance(item, InputSpec):
            return self._input_tensor(item, item.name or name)
        if isinstance(item, tuple) and hasattr(item, "_fields"):
            return type(item)(*(self._input(inner, f"{name}.{key}") for key, inner in zip(item._fields, item, strict=True)))  # pyright: ignore[reportAttributeAccessIssue]
        if isinstance(item, (tuple, list)):
            return type(item)(self._input(inner, f"{name}.{i}") for i, inner in enumerate(item))
        if isinstance(item, dict):
            return {key: self._input(inner, f"{name}.{key}") for key, inner in item.items()}
        return item

    def _input_tensor(self, spec: InputSpec, name: str) -> Tensor:
        dtype = getattr(torch, spec.dtype)
        continuous = dtype.is_floating_point or dtype.is_complex
        memory = self.recorder.memory
        fixed = not continuous and spec.distribution.family == "constant"
        data = None if spec.data is None else torch.as_tensor(spec.data).detach().to("cpu", dtype)
        if self.real:
            tensor = draw(spec.distribution, spec.shape, dtype) if data is None else data.clone()
        else:
            tensor = torch.empty(spec.shape, dtype=dtype, device="meta")
        cell = memory.cell(tensor)
        if data is not None or fixed:
            if self.real:
                cell.shadow = None if continuous else True
            else:
                cell.shadow = Fill(spec.distribution.parameters["value"]) if data is None else data.contiguous().clone().untyped_storage()
                cell.sampled = continuous
        if continuous and self.step.backward and self.step.input_gradients:
            tensor.requires_grad_()
        value = self.tape.source(tensor)
        if memory.known(tensor):
            self.tape.constants[value] = constant_array(memory.contents(tensor))
        self.inputs.append((Input(name, value, spec.distribution), tensor))
        return tensor

    # the step

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        step, recorder = self.step, self.recorder
        try:
            with torch.enable_grad() if step.backward else torch.no_grad():
                result = step.model(*args, **kwargs)
            with recorder.quiet():
                results = [(name, self._own(tensor)) for name, tensor in named_tensors(result)]
                self.outputs = [Output(name, self.tape.value(tensor)) for name, tensor in results]
            if step.loss is not None:
                recorder.phase = "loss"
                if step.backward:
                    self._watch([tensor for _, tensor in results])
                total = apply_loss(step.loss, result, lambda spec: self._target(spec))
                with recorder.quiet():
                    total = self._own(total)
                    self.loss_value = self.tape.value(total)
                if step.backward:
                    self._backward([total], [None])
            elif step.backward:
                floating = [(i, t) for i, (_, t) in enumerate(results) if t.requires_grad]
                self._backward([t for _, t in floating], [self._cotangent(i, t) for i, t in floating])
        except Exception as error:
            self.crash = self._crashed(error)

    def _own(self, tensor: Tensor) -> Tensor:
        return self.recorder.memory.adopt(tensor) if tensor.device.type != "meta" else tensor

    def _target(self, spec: InputSpec) -> Tensor:
        with self.recorder.quiet():
            tensor = self._input_tensor(dataclasses.replace(spec), "target")
        return tensor.detach_() if tensor.requires_grad else tensor

    def _cotangent(self, index: int, tensor: Tensor) -> Tensor:
        with self.recorder.quiet():
            cotangent = torch.empty_like(tensor.detach())
            if self.real:
                cotangent.normal_()
            value = self.tape.source(cotangent)
        self.outputs[index] = dataclasses.replace(self.outputs[index], cotangent=value)
        return cotangent

    def _watch(self, tensors: list[Tensor]) -> None:
        def hook(index: int) -> Callable[[Tensor], None]:
            def arrived(gradient: Tensor) -> None:
                with self.recorder.quiet():
                    self.outputs[index] = dataclasses.replace(self.outputs[index], cotangent=self.tape.value(gradient))

            return arrived

        for index, tensor in enumerate(tensors):
            if tensor.requires_grad:
                tensor.register_hook(hook(index))

    def _backward(self, roots: list[Tensor], cotangents: list[Tensor | None]) -> None:
        self.recorder.phase = "backward"
        if not any(t.requires_grad for t in roots):
            self.tape.note(
                "no output depends on a parameter or floating input through differentiable operations: there is no backward pass"
            )
            return
        torch.autograd.backward(roots, cotangents)

    def _crashed(self, error: Exception) -> Crash:
        recorder = self.recorder
        failure = recorder.failure
        chain: list[BaseException] = []
        link: BaseException | None = error
        while link is not None and link not in chain:
            chain.append(link)
            link = link.__cause__ or link.__context__
        op, shapes, module, source, phase = None, (), "", None, recorder.phase
        if failure is not None and any(failure[0] is link for link in chain):
            _, op, shapes, module, source, phase = failure
        trace = error.__traceback__
        frames: list[Any] = []
        while trace is not None:
            frames.append(trace)
            trace = trace.tb_next
        for item in reversed(frames):
            found = user_source(_Pinned(item))
            if found is not None and found.file == item.tb_frame.f_code.co_filename:
                source = found
                break
        return Crash(type(error).__name__, str(error), op or None, shapes, module, source, phase)

    # what leaves

    def _finish(self) -> Record:
        tape = self.tape
        self.step.assumed = any("was assumed" in note or "depends on random values" in note for note in tape.notes)
        memory = self.recorder.memory
        parameters: list[Parameter] = []
        for parameter, tensor in self.parameters:
            gradient = tensor.grad
            if gradient is not None and not parameter.buffer:
                parameter = dataclasses.replace(parameter, gradient=tape.value(gradient))
            parameters.append(parameter)
        inputs = [
            item if tensor.grad is None else dataclasses.replace(item, gradient=tape.value(tensor.grad)) for item, tensor in self.inputs
        ]
        if loose := self.tree.loose:
            where = f"{len(loose)} modules (first: {loose[0]}) are reached through plain attributes, lists or dictionaries only"
            tape.note(f"{where}: optimisers and state_dict do not see them")
        modules = {path: f"{type(m).__module__}.{type(m).__qualname__}" for path, m in self.tree.modules.items()}
        return Record(
            tuple(tape.nodes),
            tape.values(),
            self.calls.finished(),
            tuple(parameters),
            tuple(inputs),
            tuple(self.outputs),
            tape.constants,
            self.loss_value,
            self.step.train,
            self.crash,
            tuple(tape.notes),
            modules,
            loose=tuple(self._held(held, twin) for held, twin in self.held),
            storages=tuple(memory.sizes),
        )

    def _held(self, held: Held, twin: Tensor) -> Loose:
        uses = [use for use in self.recorder.loose[id(twin)] if use.phase != "backward"]
        source = next((use.source for use in uses if use.source is not None), None)
        moved = id(twin) in self.recorder.moved or follows_moves(held.module)
        tensor, parameter = held.tensor, isinstance(held.tensor, nn.Parameter)
        places = ("__getitem__", "index_select", "embedding", "gather", "tolist")
        indexes = bool(uses) and not tensor.is_floating_point() and all(use.function in places for use in uses)
        shape, dtype = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
        where = (held.name, held.owner, held.attribute, held.container, shape, dtype)
        module = uses[0].module if uses else ""
        return Loose(*where, tensor.requires_grad, parameter, bool(uses), moved, indexes, source, module)


boundaries.add(_Run._run.__code__)


class _Pinned:
    """A traceback entry with the interface of a frame, at the line where the error passed."""

    def __init__(self, entry: Any) -> None:
        self.f_code, self.f_lineno, self.f_back = entry.tb_frame.f_code, entry.tb_lineno, None


@contextmanager
def _eager() -> Generator[None, None, None]:
    """Compiled functions run their Python."""
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
