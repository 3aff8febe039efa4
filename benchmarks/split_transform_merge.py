"""What SplitTransformMerge costs against the other ways to write it, and against what the machine can do.

    python benchmarks/split_transform_merge.py [--quick] [--compile] [--clock cpu] [--allocator default]

The layer is 256 → 32 x (4, 3x3, 4) → 256. All forms of a cell run in turn, round after round; a figure is the minimum over the rounds, so
ratios come from one run. Ceilings (multiply-adds on registers, a matrix product, a copy) are measured in the same run. Prints Markdown.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator

KEEPING = {"MALLOC_MMAP_THRESHOLD_": str(1 << 33), "MALLOC_TRIM_THRESHOLD_": str(1 << 33), "MALLOC_TOP_PAD_": str(1 << 26)}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="N = 8 with 14x14 and 28x28 alone")
    parser.add_argument(
        "--compile", action="store_true", help="also torch.compile of the loop and of the grouped form (minutes of compiling)"
    )
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=12, help="at most; large cells take fewer")
    parser.add_argument("--budget", type=float, default=20.0, help="seconds for one cell")
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu: processor time of all threads / threads, for a shared machine"
    )
    parser.add_argument(
        "--allocator", choices=("keeping", "default"), default="keeping", help="keeping: glibc returns no block to the system"
    )
    return parser.parse_args()


OPTIONS = arguments()
wanted = {"OMP_WAIT_POLICY": "passive", **(KEEPING if OPTIONS.allocator == "keeping" else {})}
if any(os.environ.get(k) != v for k, v in wanted.items()):  # both are read when a process starts
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **wanted})

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from initio.nn import SplitTransformMerge, ops  # noqa: E402
from initio.nn.kernels import build  # noqa: E402

FLOPS = 2 * (256 * 128 + 128 * 4 * 9 + 128 * 256)  # of one output pixel, forward
LIMIT = 4 << 30  # bytes; the grouped form of a training step keeps 98 outputs
Form = tuple[str, nn.Module, torch.memory_format]


class Plain(nn.Module):
    """The layer on plain torch operations: three convolutions, or the per-path merge without the kernel."""

    def __init__(self, layer: SplitTransformMerge) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        p = self.layer
        operands = p.reduce_weight, p.reduce_bias, p.transform_weight, p.transform_bias, p.merge_weight, p.merge_bias
        return ops.differentiable(x, *operands, p.stride, p.padding, p.dilation, p.activation_after or "none")


def dense() -> nn.Module:
    return nn.Sequential(nn.Conv2d(256, 128, 1), nn.ReLU(), nn.Conv2d(128, 128, 3, padding=1), nn.ReLU(), nn.Conv2d(128, 256, 1), nn.ReLU())


def forms(after: str) -> Iterator[Form]:
    torch.manual_seed(0)
    layer = SplitTransformMerge(256, 256, 32, 4, activation_after=after)
    contiguous, last = torch.contiguous_format, torch.channels_last
    yield "loop", layer.as_loop(), contiguous
    yield "SplitTransformMerge", layer, contiguous
    yield "SplitTransformMerge, channels last", layer, last
    if after == "path":
        yield "grouped", layer.as_grouped(), contiguous
        yield "grouped, channels last", layer.as_grouped(), last
    name = "per path, plain torch" if after == "path" else "three convolutions"
    yield name, Plain(layer), contiguous
    yield name + ", channels last", Plain(layer), last
    yield "dense bottleneck", dense(), contiguous
    yield "dense bottleneck, channels last", dense(), last
    if OPTIONS.compile:
        torch.compiler.reset()  # else the cells together exceed the number of compilations of one function
        yield "torch.compile of the loop", torch.compile(layer.as_loop(), dynamic=False), contiguous
        yield "torch.compile, grouped", torch.compile(layer.as_grouped() if after == "path" else Plain(layer), dynamic=False), contiguous


def uncompilable() -> str:
    """Why torch.compile makes no code here; empty where it does."""
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.ones(8))
    except Exception as error:  # no compiler, no headers, a Python without support: each has its own type
        return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:120]}"
    return ""


def step(model: nn.Module, x: Tensor, dy: Tensor | None) -> Callable[[], object]:
    """A closure that runs inference, or forward and backward if there is a cotangent."""

    def infer() -> object:
        with torch.no_grad():
            return model(x)

    def train() -> None:
        x.grad = None
        model.zero_grad(set_to_none=True)
        model(x).backward(dy)

    return infer if dy is None else train


def clock() -> float:
    return time.perf_counter() if OPTIONS.clock == "wall" else time.process_time() / OPTIONS.threads


def minima(runs: dict[str, Callable[[], object]]) -> dict[str, float]:
    """The least time of each, in interleaved rounds within the budget of a cell."""
    best = dict.fromkeys(runs, float("inf"))
    for run in runs.values():
        run()
    start = time.perf_counter()
    for _ in range(OPTIONS.rounds):
        for name, run in runs.items():
            for _ in range(1 if name == "loop" else 3):
                t = clock()
                run()
                best[name] = min(best[name], clock() - t)
        if time.perf_counter() - start > OPTIONS.budget:
            break
    return best


def peak(run: Callable[[], object]) -> int:
    """The most bytes of tensors alive at once that `run` made itself."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        kept = run()
    del kept
    alive = most = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            alive += event.nbytes()
            most = max(most, alive)
    return most


def ceilings() -> tuple[float, float, float]:
    """Flop/s of multiply-adds on registers and of a matrix product, bytes/s of a copy (read and written)."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    source, target = torch.randn(1 << 26), torch.empty(1 << 26)
    rounds = 4_000_000
    runs: dict[str, Callable[[], object]] = {"product": lambda: a @ b, "copy": lambda: target.copy_(source)}
    if build.available(False):
        runs["registers"] = lambda: build.library(False).stm_multiply_adds(rounds, OPTIONS.threads)
    best = minima(runs)
    product = 2 * 2048**3 / best["product"]
    fma = build.library(False).stm_multiply_adds(1, OPTIONS.threads) * rounds / best["registers"] if "registers" in best else product
    return fma, product, 2 * 4 * source.numel() / best["copy"]


def row(values: list[str]) -> None:
    print("| " + " | ".join(values) + " |", flush=True)


def table(after: str, train: bool, fma: float) -> None:
    """One row a size: milliseconds of each form in its better layout, ratios to the layer, share of the bound."""
    print(f'\n### activation_after="{after}", {"forward and backward" if train else "forward"}\n')
    sizes = [(8, 14), (8, 28)] if OPTIONS.quick else [(n, s) for n in OPTIONS.batches for s in (7, 14, 28, 56)]
    header: list[str] = []
    families: list[str] = []
    for n, size in sizes:
        runs: dict[str, Callable[[], object]] = {}
        for name, model, layout in forms(after):
            if "grouped" in name and n * size * size * (98 if train else 65) * 1024 > LIMIT:
                continue
            x = torch.randn(n, 256, size, size).contiguous(memory_format=layout).requires_grad_(train)
            dy = torch.randn(n, 256, size, size).contiguous(memory_format=layout) if train else None
            runs[name] = step(model, x, dy)
        found: dict[str, float] = {}
        for name, seconds in minima(runs).items():
            family = name.removesuffix(", channels last")
            found[family] = min(seconds, found.get(family, seconds))
        mine = found["SplitTransformMerge"]
        if not header:
            families = list(found)
            header = ["N", "H=W", *families, "loop / layer", "next torch form / layer", "share of the bound"]
            row(header)
            row(["---"] * len(header))
        others = [t for family, t in found.items() if family not in ("loop", "SplitTransformMerge", "dense bottleneck")]
        share = n * size * size * FLOPS * (3 if train else 1) / fma / mine
        times = [f"{found[f] * 1e3:.3g}" if f in found else f"over {LIMIT >> 30} GB" for f in families]
        row([str(n), str(size), *times, f"{found['loop'] / mine:.1f}", f"{min(others) / mine:.1f}", f"{share:.0%}"])


def memory() -> None:
    """Peak of a step at N = 8, 28 x 28, in units of the output."""
    unit = 8 * 256 * 28 * 28 * 4
    print("\n### Peak memory at N = 8, 28x28, in units of the output (operands not counted)\n")
    row(["form", "forward", "forward and backward"])
    row(["---"] * 3)
    for after in ("path", "sum"):
        for name, model, _ in forms(after):
            if "channels last" in name or name.startswith("torch.compile"):
                continue
            cells: list[str] = []
            for train in (False, True):
                x = torch.randn(8, 256, 28, 28).requires_grad_(train)
                run = step(model, x, torch.randn_like(x) if train else None)
                run()
                x.grad = None
                model.zero_grad(set_to_none=True)
                cells.append(f"{peak(run) / unit:.2f}")
            if name != "dense bottleneck" or after == "sum":
                row([f"{name} ({after})" if name != "dense bottleneck" else name, *cells])


def main() -> None:
    torch.set_num_threads(OPTIONS.threads)
    if OPTIONS.compile and (reason := uncompilable()):
        OPTIONS.compile = False
        print(f"No rows of torch.compile, which fails here. {reason}\n")
    fma, product, copy = ceilings()
    print(
        f"torch {torch.__version__}, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, {OPTIONS.threads} threads,", end=" "
    )
    print(f"{OPTIONS.clock} time, {OPTIONS.allocator} allocator, milliseconds.")
    print(f"Multiply-adds on registers {fma / 1e9:.0f} GFLOP/s (the bound), torch matrix product {product / 1e9:.0f} GFLOP/s,", end=" ")
    print(f"copy {copy / 1e9:.0f} GB/s. {FLOPS} FLOP a pixel forward, three times that with backward.")
    for after in ("path", "sum"):
        for train in (False, True):
            table(after, train, fma)
    memory()


if __name__ == "__main__":
    main()
