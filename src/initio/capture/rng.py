"""Random number generators: fixed during a recording, so that it is reproducible, and restored after it."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

__all__ = ["RandomState"]


class RandomState:
    """Random number generators of torch, Python and numpy: fixed during a recording, restored after it."""

    def __enter__(self) -> RandomState:
        self._torch = torch.default_generator.get_state()
        self._python = random.getstate()
        self._numpy = np.random.get_state()
        torch.default_generator.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        self._start = random.getstate(), _numpy_position()
        return self

    def used(self) -> bool:
        """Whether Python's or numpy's generator has been drawn from."""
        return random.getstate() != self._start[0] or _numpy_position() != self._start[1]

    def __exit__(self, *_: object) -> None:
        torch.default_generator.set_state(self._torch)
        random.setstate(self._python)
        np.random.set_state(self._numpy)


def _numpy_position() -> Any:
    state: Any = np.random.get_state()
    return state[2], state[1][:2].tolist()
