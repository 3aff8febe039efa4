"""What three checkers say of the same small models, healthy and faulty: Markdown for docs/peers.md.

    pip install torch-audit torchtest2
    python benchmarks/peers/faults.py

Each tool is used as its own first page does: Initio on the class; torch-audit's `autopatch` around three steps of training, with its static and
initial audits; torchtest2's `check_model` on one batch. All get the same cross-entropy loss, Adam, and unit-normal inputs. A cell lists what is
reported at the level of a warning or above; "–" is silence. Six of the faults are those that Initio looks for, two those that it cannot see.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import initio
from initio.examples import residual, too_large


def stack(depth: int = 20, width: int = 128) -> nn.Sequential:
    layers = [each for _ in range(depth) for each in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), *layers, nn.Linear(width, 10))


class Lists(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(64, 64)
        self.layers = [nn.Linear(64, 64) for _ in range(3)]
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = F.relu(layer(x))
        return self.head(x)


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.head = nn.Linear(64, 64), nn.LayerNorm(64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.first(x)))


class Mixing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.score, self.head = nn.Linear(64, 64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x * F.softmax(self.score(x), dim=0))


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(64, 64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.dropout(F.relu(self.first(x)), 0.3))


class Before(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.drop, self.norm, self.head = nn.Linear(64, 64), nn.Dropout(0.3), nn.BatchNorm1d(64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.norm(self.drop(F.relu(self.first(x))))))


def probabilities() -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10), nn.Softmax(dim=1))


@dataclass(frozen=True)
class Case:
    title: str
    build: Callable[[], nn.Module]
    forgotten: bool = False
    """The optimizer lacks the parameters of the last layer."""
    unscaled: bool = False
    """The data are raw bytes, 0 to 255."""


CASES = [
    Case("healthy: ten residual blocks with norms", residual.Model),
    Case("healthy: two layers", lambda: nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))),
    Case("twenty plain layers, default initialisation", stack),
    Case("weights three times too large, 24 layers", too_large.Model),
    Case("layers in a list", Lists),
    Case("a norm that is never called", Unused),
    Case("softmax over the batch", Mixing),
    Case("dropout in evaluation mode", Noisy),
    Case("dropout before batch norm", Before),
    Case("softmax before cross-entropy", probabilities),
    Case("an optimizer without the last layer", lambda: nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)), forgotten=True),
    Case("inputs that were not normalised", lambda: nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)), unscaled=True),
]


def prepared(case: Case) -> tuple[nn.Module, torch.optim.Optimizer, Tensor, Tensor]:
    torch.manual_seed(0)
    model = case.build()
    parameters = list(model.parameters())
    optimizer = torch.optim.Adam(parameters[:-2] if case.forgotten else parameters, 1e-3)
    x = torch.randint(0, 256, (32, 64)).float() if case.unscaled else torch.randn(32, 64)
    return model, optimizer, x, torch.randint(10, (32,))


def by_initio(case: Case) -> list[str]:
    report = initio.check(case.build, "32x64", loss="cross_entropy")
    return [finding.code for finding in report.findings if finding.severity != "note"]


def by_torch_audit(case: Case) -> list[str]:
    from torch_audit import autopatch

    model, optimizer, x, y = prepared(case)
    auditor = autopatch(model, optimizer=optimizer, every_n_steps=1, run_static=True, run_init=True)
    for _ in range(3):
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    result = auditor.finish(report=False)
    auditor.unpatch()
    return [finding.rule_id for finding in result.findings if finding.severity.name not in ("INFO", "NOTE")]


def by_torchtest2(case: Case) -> list[str]:
    import torchtest2

    model, optimizer, x, y = prepared(case)
    report = torchtest2.check_model(model, x, y, loss_fn=F.cross_entropy, optimizer=optimizer)
    return [result.name for result in report.results if result.status.name in ("FAIL", "WARN", "WARNING")]


def cell(run: Callable[[Case], list[str]], case: Case) -> str:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            found = run(case)
        except Exception as error:
            return f"raises {type(error).__name__}"
    return ", ".join(dict.fromkeys(found)) or "–"


def main() -> None:
    tools = {"initio": by_initio, "torch-audit": by_torch_audit, "torchtest2": by_torchtest2}
    heads = [f"{name} {importlib.metadata.version(name) if name != 'initio' else initio.__version__}" for name in tools]
    print(f"torch {torch.__version__}\n\n| model | {' | '.join(heads)} |\n|---|{'---|' * len(tools)}")
    for case in CASES:
        print(f"| {case.title} | {' | '.join(cell(run, case) for run in tools.values())} |", flush=True)


if __name__ == "__main__":
    main()
