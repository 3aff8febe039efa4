"""Small models with one planted fault each, and models that come near to one and have none."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

FAULTS: dict[str, "Case"] = {}
NEAR_MISSES: dict[str, "Case"] = {}


@dataclass(frozen=True)
class Case:
    code: str
    factory: Callable[[], nn.Module]
    inputs: Any
    loss: Any = None

    def __str__(self) -> str:
        return f"{self.code}-{self.factory.__name__}"


def fault(code: str, inputs: Any, loss: Any = None):
    """The decorated model has exactly this fault."""

    def add(factory):
        case = Case(code, factory, inputs, loss)
        FAULTS[str(case)] = case
        return factory

    return add


def near(code: str, inputs: Any, loss: Any = None):
    """The decorated model resembles this fault; no check may say anything."""

    def add(factory):
        case = Case(code, factory, inputs, loss)
        NEAR_MISSES[str(case)] = case
        return factory

    return add


class Wrapped(nn.Module):
    """A model inside of another one."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.outer = nn.ModuleDict({"inner": inner})

    def forward(self, *args):
        return self.outer["inner"](*args)
