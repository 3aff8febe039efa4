"""Training and evaluation mode of a model side by side."""

from __future__ import annotations

import importlib
from typing import Any

from initio.core.modes import TrainEval

__all__ = ["train_eval"]


def train_eval(model_or_factory: Any, inputs: Any, *, target: str = "") -> TrainEval:
    """Predict the moments of every module output in training and in evaluation mode, and name what parts them.

    The result is a sequence of rows (`initio.core.modes.Parting`), one for each module output: moments in both modes, the `ratio` of
    the second moments, and `why`: dropout's noise, batch statistics against running ones, stochastic depth, random slopes, or a way
    that the module's own code takes in one mode only. `parting` holds the rows that differ, `first` the one where they part.

    >>> from torch import nn
    >>> found = train_eval(lambda: nn.Sequential(nn.Linear(64, 64), nn.Dropout(0.5)), "8x64")
    >>> found.first.path, round(found.first.ratio, 6), found.first.why
    ('1', 2.0, 'dropout of single entries, p = 0.5: none in evaluation')

    Raises:
        InitioError: as `analyze`, and where the model's own code raises in one of the modes.
    """
    steps: Any = importlib.import_module("initio.api.steps")
    step = steps._Step(model_or_factory, inputs, None)
    name = target or getattr(model_or_factory, "__qualname__", type(model_or_factory).__name__)
    train, other = (step.analyze(mode, backward=False) for mode in (True, False))
    for analysis in (train, other):
        if analysis.record.crash is not None:
            raise steps.crash_error(analysis.record.crash, name)
    return TrainEval(train, other, name)
