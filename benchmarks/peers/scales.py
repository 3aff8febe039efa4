"""The scales of a GELU MLP under torch's default initialisation: what Initio predicts, and what unit-scaling's `analyse_module` measures.

    pip install unit-scaling
    python benchmarks/peers/scales.py

The model and its input are those of unit-scaling's user guide: 1024 → 4096 → 1024, GELU between, a batch of unit normals, a unit-normal
cotangent. A scale is a standard deviation. unit-scaling runs the model once; Initio runs nothing. Prints Markdown.
"""

from __future__ import annotations

import importlib.metadata
import re

import torch
from torch import Tensor, nn

import initio


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(1024, 4096)
        self.act = nn.GELU()
        self.second = nn.Linear(4096, 1024)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.act(self.first(x)))


def measured(batch: int) -> dict[str, tuple[float, float]]:
    """Forward and backward scale of each line of the code that unit-scaling traced."""
    from unit_scaling.utils import analyse_module

    torch.manual_seed(0)
    x = torch.randn(batch, 1024, requires_grad=True)
    text = analyse_module(MLP(), x, torch.randn(batch, 1024), syntax_highlight=False)
    found = re.findall(r"^ +(\w+) = .*\(-> ([\d.e+-]+), <- ([\d.e+-]+)\)$", text, re.MULTILINE)
    return {name: (float(a), float(b)) for name, a, b in found}


def predicted(batch: int) -> dict[str, tuple[float, float]]:
    analysis = initio.analyze(MLP, f"{batch}x1024")
    weights = {name.replace(".", "_"): (each.rms, each.grad_rms) for name, each in analysis.parameters.items()}
    outputs = {"linear": "first", "gelu": "act", "linear_1": "second"}
    return weights | {line: (analysis.modules[path].std, analysis.modules[path].grad_rms) for line, path in outputs.items()}


def main() -> None:
    batch = 1024
    ours, theirs = predicted(batch), measured(batch)
    print(f"torch {torch.__version__}, unit-scaling {importlib.metadata.version('unit-scaling')}, batch {batch}\n")
    print("| tensor | forward: predicted | measured | backward: predicted | measured |\n|---|--:|--:|--:|--:|")
    for name, (forward, backward) in theirs.items():
        print(f"| {name} | {ours[name][0]:.3g} | {forward:.3g} | {ours[name][1]:.3g} | {backward:.3g} |")


if __name__ == "__main__":
    main()
