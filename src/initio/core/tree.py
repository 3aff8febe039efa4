"""The module tree of a model as plain data, with the modules that the model holds without having registered them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from initio.core.record import Source

__all__ = ["ModuleNode", "ModuleTree", "Overwritten"]


@dataclass(frozen=True, slots=True)
class ModuleNode:
    """One module object.

    `path` is how it is reached from the model: `layer1.0.conv1` where every step is registered, `branches[3].conv` where
    a step leads through the `container` ("list", "tuple", "dict", "set", "dataclass") in the attribute `attribute` of the module `owner`.
    `aliases` are the further paths of the same object. `parameters` counts the entries of its own parameters, `trainable` those that
    require a gradient, `buffers` those of its buffers. `mode` says that its function differs between training and evaluation
    (dropout). `source` is the line where it was made, `assigned` the one where its container was put into the attribute.
    `role` is what torch's class does ("dropout", "recurrent", "container"; "" for others, and for a user's own class), `config` the plain
    numbers and texts among its attributes, and `defined` the file, first line and name of its class where that is not torch's.
    """

    path: str
    kind: str
    registered: bool = True
    owner: str = ""
    attribute: str = ""
    container: str = ""
    aliases: tuple[str, ...] = ()
    parameters: int = 0
    trainable: int = 0
    buffers: int = 0
    mode: bool = False
    source: Source | None = None
    assigned: Source | None = None
    role: str = ""
    config: Mapping[str, float | int | bool | str] = field(default_factory=dict[str, "float | int | bool | str"])
    defined: Source | None = None


@dataclass(frozen=True, slots=True)
class Overwritten:
    """A module that lost its attribute to a later one, assigned by the same line of the same call, and hangs nowhere else on the model."""

    owner: str
    attribute: str
    kind: str
    times: int
    trainable: int
    source: Source


@dataclass(frozen=True, slots=True)
class ModuleTree:
    """All module objects that hang on a model, each once, in the order of a walk; the model itself is first.

    `copies` groups the names of parameters that start with the same random entries, `overwritten` are modules that are gone.
    """

    modules: tuple[ModuleNode, ...] = ()
    copies: tuple[tuple[str, ...], ...] = ()
    overwritten: tuple[Overwritten, ...] = ()

    def by_path(self) -> dict[str, ModuleNode]:
        """Path, or alias of it → module."""
        table = {module.path: module for module in self.modules}
        for module in self.modules:
            for alias in module.aliases:
                table.setdefault(alias, module)
        return table

    @property
    def unregistered(self) -> tuple[ModuleNode, ...]:
        """Modules that `named_modules()` does not reach."""
        return tuple(module for module in self.modules if not module.registered)
