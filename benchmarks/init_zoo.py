"""Every listed model under `initio.init.solve`, and what draws of the plan measure.

Each model is solved for the forward target (E[y²] = 1 for every weight's product), drawn by `plan.apply_`, and measured with at least four
draws. A module is at its target within a factor 1.1. A module beyond it counts as noise where three standard errors of the measurement
reach back to the factor, and as missed otherwise; modules of which the plan says why they cannot be there count by that reason.

    python benchmarks/init_zoo.py --rows init_zoo.jsonl --page docs/init.md      # goes on where it stopped
    python benchmarks/init_zoo.py --rows init_zoo.jsonl --model hf:gpt2 --again
"""

from __future__ import annotations

import argparse
import json
import math
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from zoo import LISTED, ZOO, available

FACTOR = math.log(1.1)
LEAST, MOST, SECONDS = 4, 64, 25.0
"""Draws: at least and at most, and the time that they may take."""
REASONS = (
    ("tied to a readout", "table of a tied readout"),
    (" too, and one gain", "one weight, several uses"),
    ("is left as it is", "weight that is not solved for"),
    ("nothing is predicted", "not predicted"),
    ("exactly zero", "input is zero"),
    ("E[y²] = ", "added constants"),
)
BEGIN, END = "<!-- zoo -->", "<!-- end -->"


def solved(name: str) -> dict[str, Any]:
    """One model: its plan, and the measurement."""
    import torch

    import initio
    from initio.init import solve

    torch.set_num_threads(1)
    model = ZOO[name]
    inputs = list(model.inputs)
    start = time.process_time()
    plan = solve(model.build, inputs, "forward")
    row: dict[str, Any] = {"model": name, "solve_seconds": round(time.process_time() - start, 1), "weights": len(plan.gains)}

    def draws(count: int, seed: int) -> Any:
        return initio.measure(lambda: plan.apply_(model.build()), inputs, draws=count, seed=seed, progress=False)

    start = time.perf_counter()
    draws(1, 99)
    count = max(LEAST, min(MOST, int(SECONDS / (time.perf_counter() - start))))
    outputs = draws(count, 1).outputs
    row |= {"draws": count, "modules": len({*plan.wanted, *plan.unreached}), "at": 0, "noise": [], "missed": [], "unmeasured": []}
    row["unreached"] = {path: [reason_class(why), why] for path, why in plan.unreached.items()}
    worst = (0.0, "", 0.0)
    for path, wanted in plan.wanted.items():
        if path in plan.unreached:
            continue
        got = outputs.get((path, 0, 0))
        if got is None:
            row["unmeasured"].append(path)
            continue
        off = abs(math.log(got.second / wanted)) if got.second > 0 else math.inf
        worst = max(worst, (off, path, got.second / wanted))
        if off <= FACTOR:
            row["at"] += 1
        else:
            beyond = abs(got.second - wanted) - wanted * (math.exp(FACTOR) - 1)
            entry = [path, got.second, got.error, wanted, plan.after[path].second if path in plan.after else None]
            row["noise" if beyond < 3 * got.error else "missed"].append(entry)
    return row | {"worst": [worst[1], worst[2]]}


def reason_class(why: str) -> str:
    """The reason of a plan in a few words."""
    return next((short for part, short in REASONS if part in why), why)


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, a row a model."""
    lines = ["| model | modules | at target | within noise | missed | where the architecture forbids it | worst measured | draws |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    total: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for row in rows:
        if "error" in row:
            lines.append(f"| {row['model']} | | | | | {row['error']} | | |")
            total["failed"] += 1
            continue
        classes = Counter(short for short, _ in row["unreached"].values())
        reasons += classes
        said = ", ".join(f"{count} {short}" for short, count in classes.most_common())
        path, ratio = row["worst"]
        numbers = (row["modules"], row["at"], len(row["noise"]), len(row["missed"]))
        total.update(dict(zip(("modules", "at", "noise", "missed"), numbers, strict=True)))
        worst = f"`{path}` ×{ratio:.2f}" if path else ""
        lines.append(f"| {row['model']} | {' | '.join(map(str, numbers))} | {said} | {worst} | {row['draws']} |")
    counts = f"{total['modules']} | {total['at']} | {total['noise']} | {total['missed']}"
    lines.append(f"| **all {len(rows)}** | {counts} | {sum(reasons.values())} | | |")
    return "\n".join(lines)


def read(path: Path) -> dict[str, dict[str, Any]]:
    """The newest row of each model, in the order of the list."""
    rows = {row["model"]: row for row in map(json.loads, path.read_text().splitlines())} if path.exists() else {}
    return {model.name: rows[model.name] for model in LISTED if model.name in rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, default=Path("init_zoo.jsonl"))
    parser.add_argument("--model", action="append", help="only these; a prefix such as timm: is enough")
    parser.add_argument("--again", action="store_true", help="also those that have a row")
    parser.add_argument("--timeout", type=float, default=600, help="seconds a model may take")
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin no model after so many")
    parser.add_argument("--page", type=Path, help="write the table into this page")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print("ROW " + json.dumps(solved(options.one)))
        return
    began, done = time.perf_counter(), set() if options.again else set(read(options.rows))
    for model in LISTED:
        wanted = not options.model or any(model.name.startswith(prefix) for prefix in options.model)
        if model.name in done or not wanted or not available(model):
            continue
        if time.perf_counter() - began > options.seconds:
            break
        row = _apart(model.name, options.timeout)
        with options.rows.open("a") as sink:
            sink.write(json.dumps(row) + "\n")
        print(json.dumps({key: value for key, value in row.items() if key != "unreached"}), flush=True)
    rows = list(read(options.rows).values())
    made = table(rows)
    if options.page:
        text = options.page.read_text()
        pattern = re.compile(f"{BEGIN}.*{END}", re.DOTALL)
        options.page.write_text(pattern.sub(lambda _: f"{BEGIN}\n\n{made}\n\n{END}", text))
    print(made)


def _apart(name: str, timeout: float) -> dict[str, Any]:
    """In a process of its own, whose memory is freed."""
    try:
        command = [sys.executable, __file__, "--one", name]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return {"model": name, "error": f"not within {timeout:g} s"}
    found = re.search(r"^ROW (.*)$", done.stdout, re.MULTILINE)
    if found is None:
        return {"model": name, "error": (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1][:200]}
    return json.loads(found[1])


if __name__ == "__main__":
    main()
