"""The numbers of an analysis as scalars for TensorBoard, Weights & Biases, or whatever logs by name."""

from __future__ import annotations

import math
from typing import Any

from initio.core.analysis import Analysis
from initio.core.errors import InitioError

__all__ = ["log", "scalars"]


def scalars(analysis: Analysis, prefix: str = "initio") -> dict[str, float]:
    """Tag → value: rms and gradient rms of modules, gradient over weight of trainable parameters; only what is known and finite."""
    rows = {f"rms/{path or 'model'}": result.rms for path, result in analysis.modules.items()}
    rows |= {f"grad_rms/{path or 'model'}": result.grad_rms for path, result in analysis.modules.items()}
    rows |= {f"ratio/{name}": each.ratio for name, each in analysis.parameters.items() if each.trainable}
    return {f"{prefix}/{name}": value for name, value in rows.items() if math.isfinite(value)}


def log(analysis: Analysis, writer: Any, step: int = 0, prefix: str = "initio") -> None:
    """Write all scalars: by `writer.add_scalar(tag, value, step)`, or at once by `writer.log({tag: value}, step=step)`."""
    found = scalars(analysis, prefix)
    if hasattr(writer, "add_scalar"):
        for tag, value in found.items():
            writer.add_scalar(tag, value, step)
    elif hasattr(writer, "log"):
        writer.log(found, step=step)
    else:
        remedy = "Give a torch.utils.tensorboard.SummaryWriter, a run of wandb, or wandb itself."
        raise InitioError("a writer with add_scalar or log", f"{type(writer).__name__} came", where="writer", remedy=remedy)
