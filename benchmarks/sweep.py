"""What a cell of a sweep costs: in this process, in a process pool, and on a local Ray cluster of one node and of two.

    python benchmarks/sweep.py --side 20                  # needs pip install 'initio[ray]' for the last two rows
    python benchmarks/sweep.py --side 100 --ways pool      # 10,000 cells

The family is a tanh MLP of 100 layers of 256 units, over gain and the standard deviation of its biases; with all checks and depth scales. Processor time
is that of this process and all that it starts; the start of the cluster is left out, that of its workers is not. No other cluster may run on the machine.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

import initio


def mlp(gain: float, bias: float, depth: int = 100, width: int = 256) -> nn.Module:
    """Plain layers of tanh units."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        linear = nn.Linear(width, width)
        nn.init.normal_(linear.weight, std=gain / width**0.5)
        nn.init.normal_(linear.bias, std=bias)
        layers += [linear, nn.Tanh()]
    return nn.Sequential(*layers)


def processor_seconds() -> float:
    """Of this process and all that it started, ended ones included; a cluster's leave its tree, and are known by their names."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    mine = {os.getpid()}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            name = (process / "cmdline").read_bytes()
        except OSError:
            continue
        pid = int(process.name)
        parents[pid], ticks[pid] = int(fields[1]), sum(map(int, fields[11:15]))
        if name.startswith(b"ray::") or b"/ray/" in name:
            mine.add(pid)
    while more := {process for process, parent in parents.items() if parent in mine} - mine:
        mine |= more
    return sum(ticks.get(process, 0) for process in mine) / os.sysconf("SC_CLK_TCK")


def timed(side: int, **settings: Any) -> tuple[float, float, int]:
    """Wall-clock seconds, processor seconds and finished cells of a sweep with side × side cells."""
    grid = {"gain": f"0.5:3:{side}", "bias": f"0.01:1:log:{side}"}
    with tempfile.TemporaryDirectory() as folder:
        wall, processor = time.perf_counter(), processor_seconds()
        found = initio.sweep(f"{__file__}:mlp", grid, "8x256", store=Path(folder) / "sweep.sqlite", **settings)
        return time.perf_counter() - wall, processor_seconds() - processor, len(found) - len(found.failed)


def on_ray(side: int, nodes: int) -> tuple[float, float, int]:
    """The same on a cluster of so many nodes with one processor each."""
    import ray
    from ray.cluster_utils import Cluster

    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    node = {"num_cpus": 1, "object_store_memory": 80_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        for _ in range(nodes - 1):
            cluster.add_node(**node)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")  # here, so that the workers outlive the sweep
        return timed(side, ray=cluster.address)
    finally:
        ray.shutdown()
        cluster.shutdown()


WAYS = {
    "here": lambda side: timed(side, workers=0),
    "pool": lambda side: timed(side),
    "pool of one": lambda side: timed(side, workers=1),
    "ray": lambda side: on_ray(side, 1),
    "ray of two": lambda side: on_ray(side, 2),
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=20, help="values of each of the two parameters")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| | cells | wall clock, s | processor, s | processor, ms a cell |\n|---|---|---|---|---|")
    for way in options.ways:
        wall, processor, cells = WAYS[way](options.side)
        print(f"| {way} | {cells} | {wall:.1f} | {processor:.1f} | {1e3 * processor / cells:.0f} |", flush=True)


if __name__ == "__main__":
    main()
