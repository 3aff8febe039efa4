"""What an analysis costs beside one measured draw, and all checks beside the analysis: ResNet-50, and a 7B Llama without weights.

    python benchmarks/analysis.py            # needs torchvision and transformers

Processor seconds of one thread, the smaller of two rounds that alternate; ratios are analysis over draw.
"""

from __future__ import annotations

import importlib
import resource
import time
from collections.abc import Callable
from typing import Any

import torch

import initio

torch.set_num_threads(1)


def seconds(run: Callable[[], Any]) -> float:
    """Processor time of one call."""
    start = time.process_time()
    run()
    return time.process_time() - start


def main() -> None:
    """Print the table."""
    initio.analyze(lambda: torch.nn.Linear(4, 4), "2x4")  # imports
    rows: list[tuple[str, float, float]] = []
    models = importlib.import_module("torchvision.models")
    shape = "1x3x224x224"
    rounds = [
        (seconds(lambda: initio.analyze(models.resnet50, shape)), seconds(lambda: initio.measure(models.resnet50, shape, draws=1)))
        for _ in range(2)
    ]
    rows.append(("ResNet-50, 1x3x224x224", min(a for a, _ in rounds), min(d for _, d in rounds)))
    hf = importlib.import_module("transformers")
    rows.append(
        ("Llama-7B, 1x512", seconds(lambda: initio.analyze(lambda: hf.LlamaForCausalLM(hf.LlamaConfig()), "1x512:int(32000)")), 0.0)
    )
    print("| model | analysis, s | one draw, s | ratio |")
    print("|---|---|---|---|")
    for name, analysis, draw in rows:
        print(f"| {name} | {analysis:.2f} | {f'{draw:.2f}' if draw else 'not run'} | {f'{analysis / draw:.2f}' if draw else ''} |")
    shape = "8x3x224x224"
    sides = [
        (seconds(lambda: initio.check(models.resnet50, shape)), seconds(lambda: initio.analyze(models.resnet50, shape))) for _ in range(3)
    ]
    check, analysis = (min(side) for side in zip(*sides, strict=True))
    print(f"\nResNet-50, {shape}: {check:.2f} s with all checks, {analysis:.2f} s the analysis alone, ratio {check / analysis:.2f}")
    print(f"\npeak memory, imports included: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


if __name__ == "__main__":
    main()
