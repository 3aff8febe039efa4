"""Training under several initialisations: same seeds, same steps, the same search over learning rates for each.

Four networks that are hard to start (50 layers of ReLU or tanh without a norm, a 50-layer residual convnet without norms, 24 post-norm
transformer layers) learn the digits of scikit-learn with Adam. Every run is kept, those that are lost too.

    python benchmarks/init.py --network relu_mlp --network tanh_mlp --steps 100 --runs runs.jsonl
    python benchmarks/init.py --network normless_resnet --network post_norm --steps 60 --rates 3e-4 1e-3 3e-3 --runs runs.jsonl
    python benchmarks/init.py --table runs.jsonl
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from initio.init import solve

WIDTH = 64
RATES = (3e-4, 1e-3, 3e-3, 1e-2)
BATCH = 64
SOLVED = 0.5
"""Training loss (averaged over ten steps) at which a run counts as having learnt something; chance is log 10 = 2.30."""


class Bottleneck(nn.Module):
    """x + W₃ relu(W₂ relu(W₁ relu(x))) without norms."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        middle = outside // 4
        self.reduce = nn.Conv2d(inside, middle, 1)
        self.conv = nn.Conv2d(middle, middle, 3, stride, 1)
        self.expand = nn.Conv2d(middle, outside, 1)
        self.skip = nn.Conv2d(inside, outside, 1, stride) if inside != outside or stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.reduce(torch.relu(x))
        return self.skip(x) + self.expand(torch.relu(self.conv(torch.relu(y))))


def normless_resnet() -> nn.Module:
    """ResNet-50 in its numbers of blocks, an eighth of its width, without norms."""
    layers: list[nn.Module] = [nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 8, 3, 1, 1)]
    inside = 8
    for stage, blocks in enumerate((3, 4, 6, 3)):
        outside = 32 << stage
        for block in range(blocks):
            layers.append(Bottleneck(inside, outside, 2 if block == 0 and stage in (1, 2) else 1))
            inside = outside
    return nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inside, 10))


class Transformer(nn.Module):
    """24 post-norm layers over the eight rows of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 32)
        self.places = nn.Parameter(torch.randn(1, 8, 32) * 0.02)
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 24, enable_nested_tensor=False)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(self.embed(x.unflatten(1, (8, 8))) + self.places).mean(1))


def mlp(activation: Callable[[], nn.Module]) -> nn.Module:
    layers = [module for _ in range(49) for module in (nn.Linear(WIDTH, WIDTH), activation())]
    return nn.Sequential(*layers, nn.Linear(WIDTH, 10))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "relu_mlp": lambda: mlp(nn.ReLU),
    "tanh_mlp": lambda: mlp(nn.Tanh),
    "normless_resnet": normless_resnet,
    "post_norm": Transformer,
}
METHODS = (
    "default",
    "kaiming",
    "lsuv",
    "anyinit",
    "anyinit data",
    "initio forward",
    "initio residual",
    "initio orthogonal",
    "initio polish",
)


def kaiming(model: nn.Module, name: str) -> None:
    for module in model.modules():
        for key, p in module.named_parameters(recurse=False):
            if p.ndim > 1 and key != "places":
                nn.init.kaiming_normal_(p, nonlinearity="tanh" if name == "tanh_mlp" else "relu")
            elif key.endswith("bias"):
                nn.init.zeros_(p)


@torch.no_grad()
def lsuv(model: nn.Module, batch: Tensor) -> None:
    """Orthogonal weights, then unit variance of each layer's output in turn (Mishkin and Matas, 2016)."""
    layers = [module for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    for module in layers:
        nn.init.orthogonal_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    order: list[nn.Module] = []
    model.train()
    handles = [module.register_forward_hook(lambda module, _, __: order.append(module)) for module in layers]
    model(batch)
    for handle in handles:
        handle.remove()
    for module in order:
        for _ in range(5):
            seen: list[Tensor] = []
            handle = module.register_forward_hook(lambda _, __, output, seen=seen: seen.append(output))
            model(batch)
            handle.remove()
            std = float(seen[0].std())
            if abs(std - 1) < 0.01 or not std > 0:
                break
            module.weight.div_(std)


PLANS: dict[tuple[str, str, str | None], Any] = {}


def initialise(model: nn.Module, name: str, method: str, batch: Tensor, seed: int) -> None:
    """The model under a method, in place."""
    if method == "kaiming":
        kaiming(model, name)
    elif method == "lsuv":
        lsuv(model, batch)
    elif method.startswith("anyinit"):
        import anyinit

        if method == "anyinit":
            anyinit.initialize(model, "analytic", tuple(batch.shape), seed=seed)
        else:
            anyinit.initialize(model, "empirical", batch, seed=seed)
    elif method.startswith("initio"):
        target = {"initio forward": "forward"}.get(method, "residual")
        family = "orthogonal" if method in ("initio orthogonal", "initio polish") else None
        key = (name, target, family)
        if key not in PLANS:
            PLANS[key] = solve(NETWORKS[name], (BATCH, 64), target, family=family)
        PLANS[key].apply_(model, torch.Generator().manual_seed(seed))
        if method == "initio polish":
            PLANS[key].polish(model, batch)


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32), torch.tensor(y)
    x = (x - x.mean(0)) / (x.std(0) + 0.1)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    return x[:1437], y[:1437], x[1437:], y[1437:]


def run(name: str, method: str, rate: float, seed: int, steps: int) -> dict[str, Any]:
    """One training: final loss over the last ten steps, test accuracy, and the step at which the loss had fallen to `SOLVED`."""
    x, y, test_x, test_y = digits()
    torch.manual_seed(seed)
    model = NETWORKS[name]()
    row: dict[str, Any] = {"network": name, "method": method, "rate": rate, "seed": seed, "steps": steps}
    began = time.process_time()
    try:
        initialise(model, name, method, x[:BATCH], seed)
    except Exception as error:
        return {**row, "error": f"{type(error).__name__}: {error}"[:200]}
    row["init_seconds"] = round(time.process_time() - began, 3)
    optimiser = torch.optim.Adam(model.parameters(), lr=rate)
    batches = torch.Generator().manual_seed(seed)
    losses: list[float] = []
    solved = None
    for step in range(steps):
        index = torch.randint(len(x), (BATCH,), generator=batches)
        loss = F.cross_entropy(model(x[index]), y[index])
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            return {**row, "loss": None, "accuracy": 0.0, "solved": None, "diverged": step}
        if solved is None and step >= 9 and sum(losses[-10:]) / 10 < SOLVED:
            solved = step + 1
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        accuracy = float((model(test_x).argmax(1) == test_y).float().mean())
    return {**row, "first": losses[0], "loss": sum(losses[-10:]) / 10, "accuracy": accuracy, "solved": solved}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: for each network, each method's runs by learning rate, and its best rate."""
    lines: list[str] = []
    for name in dict.fromkeys(row["network"] for row in rows):
        here = [row for row in rows if row["network"] == name]
        rates = sorted({row["rate"] for row in here})
        seeds, steps = len({row["seed"] for row in here}), here[0]["steps"]
        lines += [f"### {name} ({steps} steps, {seeds} seeds)", ""]
        lines += ["| initialisation | " + " | ".join(f"{rate:g}" for rate in rates) + " | best accuracy | steps to loss 0.5 |"]
        lines += ["|---|" + "---|" * (len(rates) + 2)]
        for method in METHODS:
            runs = [row for row in here if row["method"] == method]
            if not runs:
                continue
            cells: list[str] = []
            best, solved = 0.0, math.inf
            for rate in rates:
                group = [row for row in runs if row["rate"] == rate]
                lost = [row for row in group if row.get("loss") is None]
                if any("error" in row for row in group):
                    cells.append(group[0]["error"].partition(":")[0])
                    continue
                kept = [row["loss"] for row in group if row["loss"] is not None]
                text = f"{sum(kept) / len(kept):.2f}" if kept else ""
                cells.append(text + (f" ({len(lost)} diverged)" if lost else ""))
                best = max(best, sum(row["accuracy"] for row in group) / len(group))
                if all(row["solved"] for row in group):
                    solved = min(solved, sum(row["solved"] for row in group) / len(group))
            said = f"{solved:.0f}" if math.isfinite(solved) else "never"
            lines.append(f"| {method} | " + " | ".join(cells) + f" | {100 * best:.0f} % | {said} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS, action="append")
    parser.add_argument("--method", choices=METHODS, action="append")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--runs", type=Path, default=Path("runs.jsonl"))
    parser.add_argument("--table", type=Path)
    options = parser.parse_args()
    if options.table:
        print(table([json.loads(line) for line in options.table.read_text().splitlines()]))
        return
    torch.set_num_threads(1)
    done = set()
    if options.runs.exists():
        done = {
            tuple(row[key] for key in ("network", "method", "rate", "seed", "steps"))
            for row in map(json.loads, options.runs.read_text().splitlines())
        }
    with options.runs.open("a") as sink:
        for name in options.network or NETWORKS:
            for method in options.method or METHODS:
                for rate in options.rates:
                    for seed in range(options.seeds):
                        if (name, method, rate, seed, options.steps) not in done:
                            sink.write(json.dumps(run(name, method, rate, seed, options.steps)) + "\n")
                            sink.flush()


if __name__ == "__main__":
    main()
