"""The recorder proper: one ATen operation after the other, run on what it is recorded with and put on the tape."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportPrivateUsage=false

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from initio.capture.layouts import Layouts
from initio.capture.operators import SHAPES, Operation, decide_scalar, describe, encode, fill_of, policy_for
from initio.capture.places import user_source
from initio.capture.shadows import LIMIT, Fill, Memory
from initio.capture.values import Context, Tape
from initio.core.record import Phase, Source

__all__ = ["Recorder", "tensors_in"]

_SMALL = 1 << 12
_sequence_number: Any = getattr(torch.autograd, "_get_sequence_nr")  # noqa: B009
"""The number of autograd's next node: the one made for the running operation has the number before."""


class Recorder:
    """State shared by both modes and by the module calls: the tape, the phase, the stack of running modules."""

    def __init__(self, real: bool = False) -> None:
        self.memory = Memory(real)
        self.tape = Tape(self.memory, self._where)
        self.phase: Phase = "forward"
        self.stack: list[tuple[str, int]] = []
        self.event = -1
        self.function = ""
        self.depth = 0
        self.here: Context | None = None
        self.born: dict[int, Context] = {}
        self.makers: dict[int, int] = {}
        self.failure: tuple[BaseException, str, tuple[tuple[int, ...], ...], str, Source | None, Phase] | None = None
        self.counter = 0
        self.paused = False
        self.owners: dict[int, str] = {}
        self.current = Context()
        self.loose: dict[int, list[Context]] = {}
        self.moved: set[int] = set()
        self._backward_events: dict[int, Context] = {}
        self.layouts = Layouts()

    @contextmanager
    def quiet(self) -> Generator[None, None, None]:
        """For the recorder's own work between the user's operations: nothing of it is recorded."""
        before, self.paused = self.paused, True
        try:
            with torch._C.DisableTorchFunction():
                yield
        finally:
            self.paused = before

    # where an operation stands

    def _where(self) -> Context:
        return self.current

    def locate(self) -> Context:
        """The context of the operation that is about to run."""
        module, call = self.stack[-1] if self.stack else ("", -1)
        if self.phase == "backward" and not self.stack:
            return self._locate_backward()
        if self.depth and self.here is not None:
            return self.here
        context = Context(self.phase, module, call, user_source(sys._getframe(2)), self.counter, self.function)
        self.counter += 1
        if self.depth:
            self.here = context
        return context

    def _locate_backward(self) -> Context:
        node: Any = torch._C._current_autograd_node()
        if node is None:
            return self.current if self.current.phase == "backward" else Context("backward")
        number = node._sequence_nr()
        if number >= 1 << 62:
            # The node that stores a leaf's gradient has no number of its own.
            owner = self.owners.get(id(getattr(node, "variable", None)), "")
            return Context("backward", owner, function="AccumulateGrad")
        context = self._backward_events.get(number)
        if context is None:
            born = self.born.get(number)
            name = node.name()
            context = (
                Context("backward", function=name, event=self.counter)
                if born is None
                else Context("backward", born.module, born.call, born.source, self.counter, name, self.makers[number])
            )
            self.counter += 1
            self._backward_events[number] = context
        return context

    # one operation

    def operation(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an ATen operation on what it is recorded with, and put it on the tape."""
        self.current = self.locate()
        info = describe(func)
        tensors: list[Tensor] = []
        own_args, own_kwargs = self._own(args, tensors), self._own(kwargs, tensors)
        try:
            return self._run(func, info, args, kwargs, own_args, own_kwargs, tensors)
        except BaseException as error:
            if self.failure is None or self.failure[0] is not error:
                shapes = tuple(tuple(t.shape) for t in tensors)
                module = self.stack[-1][0] if self.stack else self.current.module
                self.failure = (error, info.name, shapes, module, self.current.source, self.phase)
            raise

    def _own(self, argument: Any, tensors: list[Tensor]) -> Any:
        """Replace devices by ours and the user's real tensors by known ones of the recording; collect all tensors."""
        if isinstance(argument, Tensor):
            if (uses := self.loose.get(id(argument))) is not None:
                uses.append(self.current)
            if argument.device.type != "meta":
                argument = self.memory.adopt(argument)
            tensors.append(argument)
            return argument
        if isinstance(argument, tuple):
            return tuple(self._own(item, tensors) for item in argument)
        if isinstance(argument, list):
            return [self._own(item, tensors) for item in argument]
        if isinstance(argument, dict):
            own = {key: self._own(item, tensors) for key, item in argument.items()}
            if own.get("pin_memory"):
                own["pin_memory"] = False
            return own
        if isinstance(argument, torch.device):
            return torch.device("cpu" if self.memory.real else "meta")
        return argument

    def _run(
        self,
        func: Any,
        info: Operation,
        given: tuple[Any, ...],
        given_kwargs: dict[str, Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        tensors: list[Tensor],
    ) -> Any:
        memory = self.memory
        if (
            not tensors
            and not info.random
            and not memory.real
            and "device" not in kwargs
            and any(a.name == "device" for a in func._schema.arguments)
        ):
            kwargs = {**kwargs, "device": torch.device("meta")}
        if info.packet == "aten._local_scalar_dense":
            return self._scalar(tensors[0])
        if info.packet in _SILENT:
            return None
        if (fill := fill_of(info, args, kwargs)) is not None:
            return self._fill(func, args, kwargs, fill)
        written = [_at(args, kwargs, place) for place in info.writes]
        written = [t for item in written if item is not None for t in (item if isinstance(item, (list, tuple)) else (item,))]
        targets = {id(t) for t in written}
        readers = tensors
        if info.overwrites and all(_whole(t) for t in written):
            readers = [t for t in tensors if id(t) not in targets]
        if not info.random and not info.view and not info.renames and all(map(memory.known, readers)):
            done, result = self._known(func, info, args, kwargs, written)
            if done:
                return self._returned(result, given, given_kwargs, info)
        if (info.view or info.renames) and not info.writes and all(map(memory.known, tensors)):
            return func(*args, **kwargs)
        return self._unknown(func, info, given, given_kwargs, args, kwargs, tensors, written)

    def _scalar(self, tensor: Tensor) -> Any:
        memory = self.memory
        if memory.real:
            if not memory.known(tensor):
                self.tape.note(f"a number is read from one draw of random values at {self.current.source}")
            return torch.ops.aten._local_scalar_dense(tensor)
        if memory.peekable(tensor):
            if memory.cell(tensor).sampled:
                self.tape.note(f"a random draw decides the control flow at {self.current.source}: one outcome was recorded")
            return torch.ops.aten._local_scalar_dense(memory.contents(tensor))
        answer = decide_scalar(tensor.dtype)
        self.tape.note(f"a number that depends on random values is needed at {self.current.source}: {answer} was assumed")
        return answer

    def _fill(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], fill: Fill) -> Tensor:
        out = func(*args, **kwargs)
        cell = self.memory.cell(out)
        cell.shadow = True if self.memory.real else fill
        if self.memory.real and describe(func).packet.startswith(("aten.empty", "aten.new_empty")):
            out.zero_()
        return out

    def _known(self, func: Any, info: Operation, args: Any, kwargs: Any, written: list[Tensor]) -> tuple[bool, Any]:
        """Compute an operation on known values alone for real. False where the result would be too large."""
        memory = self.memory
        if memory.real:
            out = func(*args, **kwargs)
            for tensor in written:
                memory.cell(tensor).touch()
                memory.cell(tensor).shadow = True
            for tensor in tensors_in(out):
                memory.cell(tensor).shadow = True
            return True, out
        out: Any = None
        if not info.dynamic and not _has_mask(info, args):
            try:
                out = func(*args, **kwargs)
            except NotImplementedError:
                out = None
        if sum(t.numel() for t in tensors_in(out)) > LIMIT:
            return False, None
        try:
            real_args, real_kwargs = self._contents(args, written), self._contents(kwargs, written)
        except _TooLargeError:
            return False, None
        real = func(*real_args, **real_kwargs)
        if written:
            for tensor in written:
                memory.cell(tensor).touch()
                memory.cell(tensor).sampled = False
            return True, written[0] if isinstance(real, Tensor) else out
        return True, self._beside(real, out)

    def _beside(self, real: Any, out: Any, sampled: bool = False) -> Any:
        if isinstance(real, Tensor):
            return self.memory.beside(real, out if isinstance(out, Tensor) else None, sampled)
        if isinstance(real, (tuple, list)):
            outs = out if isinstance(out, (tuple, list)) else [None] * len(real)
            return type(real)(self._beside(r, o, sampled) for r, o in zip(real, outs, strict=True))
        return real

    def _contents(self, argument: Any, written: list[Tensor]) -> Any:
        memory = self.memory
        if isinstance(argument, Tensor):
            if any(argument is t for t in written):
                real = memory.writable(argument)
                if real is None:
                    raise _TooLargeError
                return real
            return memory.contents(argument)
        if isinstance(argument, (tuple, list)):
            return type(argument)(self._contents(item, written) for item in argument)
        if isinstance(argument, dict):
            return {key: self._contents(item, written) for key, item in argument.items()}
        return torch.device("cpu") if isinstance(argument, torch.device) else argument

    def _unknown(
        self,
        func: Any,
        info: Operation,
        given: tuple[Any, ...],
        given_kwargs: dict[str, Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        tensors: list[Tensor],
        written: list[Tensor],
    ) -> Any:
        memory, tape = self.memory, self.tape
        for tensor in written:
            tape.before_write(tensor)
        values: dict[int, int] = {}

        def value(tensor: Tensor) -> int:
            found = values.get(id(tensor))
            if found is None:
                found = values[id(tensor)] = tape.value(tensor)
            return found

        coded, coded_kwargs = encode(args, value), encode(kwargs, value)
        result = self._execute(func, info, args, kwargs, tensors)
        context = self.current
        gradient = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
        if context.phase != "backward" or self.stack:
            self.born.setdefault(_sequence_number() - 1, context)
            self.makers.setdefault(_sequence_number() - 1, len(tape.nodes))
        sampled = None
        if not memory.real and not written and not info.view and not info.renames:
            sampled = self._sample(func, info, args, kwargs, tensors, result)
        fresh: dict[int, int] = {}
        mutates: list[int] = []
        for tensor in written:
            mutates.append(value(tensor))
            cell = memory.cell(tensor)
            cell.shadow = None
            fresh[id(tensor)] = tape.written(tensor, tensor.dtype.is_floating_point and gradient)
        outputs: list[int | None] = []
        for out in _flat(result):
            if not isinstance(out, Tensor):
                outputs.append(None)
            elif id(out) in fresh:
                outputs.append(fresh[id(out)])
            else:
                if info.renames:
                    vars(out).pop("_initio", None)  # pyright: ignore[reportAttributeAccessIssue]
                differentiable = (out.dtype.is_floating_point or out.dtype.is_complex) and info.packet != "aten.detach"
                outputs.append(tape.output(out, gradient and differentiable))
        outputs.extend(v for v in fresh.values() if v not in outputs)
        constant = not info.random and bool(tensors) and all(t in tape.constants for t in values.values())
        tape.node(info.name, coded, coded_kwargs, outputs, tuple(mutates), constant)
        tape.settle()
        del sampled
        return self._returned(result, given, given_kwargs, info)

    def _sample(self, func: Any, info: Operation, args: Any, kwargs: Any, tensors: list[Tensor], result: Any) -> None:
        """Keep one draw of small random values, for the control flow that may hang on them."""
        memory = self.memory
        outs = tensors_in(result)
        if not outs or sum(t.numel() for t in outs) > _SMALL or not (tensors or info.random):
            return
        if any(t.numel() > _SMALL or not memory.peekable(t) for t in tensors):
            return
        real = func(*self._contents(args, []), **{**self._contents(kwargs, []), **({} if tensors else {"device": torch.device("cpu")})})
        for out, other in zip(outs, tensors_in(real), strict=True):
            if out.stride() == other.stride() and not memory.seen(out):
                cell = memory.cell(out)
                cell.shadow, cell.sampled = other.untyped_storage(), True

    def _execute(self, func: Any, info: Operation, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[Tensor]) -> Any:
        if self.memory.real:
            return func(*args, **kwargs)
        policy = policy_for(info)
        if policy is not None and (info.packet != "aten.repeat_interleave" or kwargs.get("output_size") is None):
            words, answer = policy
            self.tape.note(f"{info.name} depends on random values at {self.current.source}: {words}")
            return self._beside_policy(answer(args, kwargs))
        if (shapes := SHAPES.get(info.packet)) is not None:
            return shapes(*args, **kwargs)
        if _has_mask(info, args):
            args = (args[0], self._without_masks(args[1]), *args[2:])
        elif tensors and not (info.writes or info.view or info.renames or info.random or info.dynamic):
            return self.layouts.run(func, args, kwargs, tensors)
        return func(*args, **kwargs)

    def _beside_policy(self, answer: Any) -> Any:
        if isinstance(answer, tuple):
            return tuple(self._beside_policy(item) for item in answer)
        if isinstance(answer, Tensor) and answer.device.type != "meta":
            out = torch.empty_strided(answer.shape, answer.stride(), dtype=answer.dtype, device="meta")
            cell = self.memory.cell(out)
            cell.shadow, cell.sampled = answer.untyped_storage(), True
            return out
        return answer

    def _without_masks(self, indices: Any) -> list[Any]:
        plain: list[Any] = []
        for index in indices:
            if not isinstance(index, Tensor) or index.dtype not in (torch.bool, torch.uint8):
                plain.append(index)
                continue
            if self.memory.known(index):
                chosen = self.memory.contents(index).nonzero()
            else:
                self.tape.note(f"a random mask selects entries at {self.current.source}: every entry was taken")
                chosen = torch.ones(index.shape, dtype=torch.bool).nonzero()
            plain.extend(torch.empty_strided(c.shape, c.stride(), dtype=c.dtype, device="meta") for c in chosen.unbind(1))
        return plain

    def _returned(self, result: Any, given: tuple[Any, ...], given_kwargs: dict[str, Any], info: Operation) -> Any:
        """In-place operations hand back the caller's own tensor, also where another one stood in for it."""
        if info.returns_written and len(info.writes) == 1 and isinstance(result, Tensor):
            original = _at(given, given_kwargs, info.writes[0])
            if isinstance(original, Tensor):
                return original
        return result


class _TooLargeError(Exception):
    pass


_SILENT = {"aten._assert_async", "aten._assert_scalar", "aten._assert_tensor_metadata", "aten.record_stream"}


def _at(args: tuple[Any, ...], kwargs: dict[str, Any], place: int | str) -> Any:
    if isinstance(place, str):
        return kwargs.get(place)
    return args[place] if place < len(args) else None


def _whole(tensor: Tensor) -> bool:
    return tensor.numel() * tensor.element_size() >= tensor.untyped_storage().nbytes()


def _flat(result: Any) -> list[Any]:
    if isinstance(result, (tuple, list)):
        return [leaf for item in result for leaf in _flat(item)]
    return [result]


def tensors_in(result: Any) -> list[Tensor]:
    """All tensors of an operation's result."""
    return [leaf for leaf in _flat(result) if isinstance(leaf, Tensor)]


def _has_mask(info: Operation, args: tuple[Any, ...]) -> bool:
    return info.packet == "aten.index" and any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1])
