"""A model as the search for rewrites sees it: its modules, its recorded step, its real inputs, and what forbids a rewrite."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from initio.capture.modules import named_tensors
from initio.capture.program import record
from initio.capture.sampling import draw
from initio.core.errors import InitioError
from initio.core.inputs import InputSpec
from initio.core.record import Call, Node, Record
from initio.rewrite.layers import CONVOLUTIONS
from initio.rewrite.result import Left

__all__ = ["LAYERS", "Scene", "drawn", "floating", "hooked"]

HOOKS = (
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks", "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks",
)  # fmt: skip
LAYERS = (nn.Linear, *CONVOLUTIONS)


@dataclass
class Scene:
    """`calls` holds the calls of each module by its path; `left` collects what was passed over.

    `originals` are the modules of the given model: hooks on tensors are not copied with them.
    """

    model: nn.Module
    record: Record
    modules: Mapping[str, nn.Module]
    calls: Mapping[str, list[Call]]
    originals: Mapping[str, nn.Module] = field(default_factory=dict[str, nn.Module])
    left: dict[str, Left] = field(default_factory=dict[str, Left])
    _tied: set[int] = field(default_factory=set[int])
    _readers: dict[int, list[Node]] = field(default_factory=dict[int, "list[Node]"])

    @classmethod
    def look(cls, model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], originals: Mapping[str, nn.Module]) -> Scene:
        """Record a forward pass in the model's mode.

        Raises:
            InitioError: the model's own code fails on these inputs.
        """
        found = record(model, args, kwargs, train=model.training, backward=False)
        if found.crash is not None:
            where = str(found.crash.source or found.crash.module)
            remedy = "Give inputs that the model runs on."
            raise InitioError(
                "a model that runs on these inputs", f"it raised {found.crash.error}: {found.crash.message}", where=where, remedy=remedy
            )
        calls: dict[str, list[Call]] = {}
        for call in found.calls:
            calls.setdefault(call.module, []).append(call)
        names: dict[int, int] = {}
        for _, tensor in [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]:
            names[id(tensor)] = names.get(id(tensor), 0) + 1
        scene = cls(model, found, dict(model.named_modules()), calls, originals)
        scene._tied = {key for key, count in names.items() if count > 1}
        for node in found.nodes:
            if node.phase == "forward":
                for value in dict.fromkeys(node.inputs):
                    scene._readers.setdefault(value, []).append(node)
        return scene

    def leave(self, path: str, reason: str) -> None:
        """Note that a module was passed over."""
        self.left.setdefault(path, Left(path, reason))

    def layers(self) -> Iterable[tuple[str, nn.Module, Call]]:
        """Every called linear layer and convolution, with its first call, in the order of the calls."""
        seen: set[str] = set()
        for call in self.record.calls:
            module = self.modules.get(call.module)
            kind = call.kind.rpartition(".")[2]
            if module is None and kind in ("Linear", "Conv1d", "Conv2d", "Conv3d"):
                self.leave(call.module, "not registered: keep it in an attribute or an nn.ModuleList (REG101)")
            elif isinstance(module, LAYERS) and call.module not in seen and call.inputs and call.outputs:
                seen.add(call.module)
                yield call.module, module, call

    def readers(self, value: int) -> list[Node]:
        """The forward operations that read a value."""
        return self._readers.get(value, [])

    def within(self, call: int, owner: int) -> bool:
        """Whether a call runs in another, or is it."""
        while call != -1:
            if call == owner:
                return True
            call = self.record.calls[call].parent
        return False

    def only_in(self, value: int, call: Call) -> bool:
        """Whether nothing outside a call reads the value, nor does the model return it."""
        readers = self.readers(value)
        returned = any(output.value == value for output in self.record.outputs)
        return bool(readers) and not returned and all(self.within(node.call, call.id) for node in readers)

    def obstacle(self, path: str) -> str | None:
        """Why a module must not be rewritten."""
        module = self.modules[path]
        if parametrize.is_parametrized(module):
            return "its parameters are parametrized"
        if type(module) not in LAYERS and type(module).__module__.partition(".")[0] != "torch":
            return f"{type(module).__name__} is a subclass, whose function may be another"
        if hooked(module) or (path in self.originals and hooked(self.originals[path])):
            return "it has hooks"
        if any(id(tensor) in self._tied for tensor in (*module.parameters(), *module.buffers())):
            return "its weights are shared with another module"
        if len(self.calls.get(path, ())) > 1:
            return f"it is called {len(self.calls[path])} times"
        if isinstance(module, tuple(CONVOLUTIONS)) and module.padding_mode != "zeros":  # pyright: ignore[reportAttributeAccessIssue]
            return f"padding_mode={module.padding_mode!r} is not supported"
        if any(
            not isinstance(tensor, nn.Parameter)
            for tensor in (getattr(module, "weight", None), getattr(module, "bias", None))
            if tensor is not None
        ):
            return "its weights are computed, not parameters"
        return None

    def all_free(self, paths: Iterable[str]) -> bool:
        """Whether all may be rewritten; each that may not is noted."""
        blocked = [path for path in paths if not self.free(path)]
        return not blocked

    def free(self, path: str) -> bool:
        """Whether a module may be rewritten; noted if not."""
        reason = self.obstacle(path)
        if reason is not None:
            self.leave(path, reason)
        return reason is None


def hooked(module: nn.Module) -> bool:
    """Whether the module or one of its own parameters has hooks."""
    parameters = module.parameters(recurse=False)
    return any(getattr(module, name, None) for name in HOOKS) or any(
        p._backward_hooks or getattr(p, "_post_accumulate_grad_hooks", None) for p in parameters
    )


def floating(result: Any) -> list[Tensor]:
    """The real floating-point tensors in a nested result, in order."""
    return [tensor for _, tensor in named_tensors(result) if tensor.is_floating_point()]


def drawn(given: Any, device: torch.device, dtype: torch.dtype | None = None) -> Any:
    """Real tensors for specifications, in the same containers."""
    if isinstance(given, InputSpec):
        kind = dtype if dtype is not None and given.dtype.startswith(("float", "bfloat")) else getattr(torch, given.dtype)
        own = draw(given.distribution, given.shape, kind) if given.data is None else torch.as_tensor(given.data).detach().clone().to(kind)
        return own.to(device)
    if isinstance(given, Tensor):
        return given.to(dtype) if dtype is not None and given.is_floating_point() else given
    if isinstance(given, Mapping):
        return {key: drawn(value, device, dtype) for key, value in given.items()}
    if isinstance(given, (list, tuple)):
        return type(given)(drawn(value, device, dtype) for value in given)
    return given
