"""Every prediction beside its measurement, over the whole zoo: writes docs/accuracy.md.

    python benchmarks/accuracy.py                          the page; resumes where it was interrupted
    python benchmarks/accuracy.py --only 'timm:*'          some models
    python benchmarks/accuracy.py --measure-only           fill the cache of measurements
    python benchmarks/accuracy.py --model nn:resnet        the worst tensors of one model, in a table

Measurements are cached and stay valid while the model, its inputs and the number of draws do; predictions are
made again when the package's source changed. Every model runs in a process of its own, on one thread; several runs may share a cache.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import importlib
import importlib.metadata
import json
import math
import multiprocessing
import os
import re
import resource
import sys
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "benchmarks")]
TABLES = ("outputs", "cotangents", "gradients", "inputs")
ALIASES = ("aten.detach.default", "aten.view.default", "aten.transpose.int", "aten.t.default", "aten.alias.default")
TOLERANCE = {"forward": 0.05, "gradients": 0.10}


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "zoo", help="where measurements and results are kept")
    parser.add_argument("--draws", type=int, default=0, help="draws of every model (default: what the zoo says, 8 to 32)")
    parser.add_argument("--only", default="*", help="pattern of model names")
    parser.add_argument("--part", choices=("listed", "held-out", "all"), default="all")
    parser.add_argument("--measure-only", action="store_true")
    parser.add_argument("--model", help="print the worst tensors of this model")
    parser.add_argument("--worst", type=int, default=15, help="how many rows --model prints for each table")
    parser.add_argument("--timeout", type=int, default=900, help="seconds for one model")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "accuracy.md")
    options = parser.parse_args()
    os.environ.update({"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"})
    warnings.simplefilter("ignore")
    if options.model:
        explain(options)
    else:
        everything(options)


def everything(options: argparse.Namespace) -> None:
    """Each model in a process of its own; then the page from all results that exist."""
    import zoo

    parts = {"listed": zoo.LISTED, "held-out": zoo.HELD_OUT, "all": (*zoo.LISTED, *zoo.HELD_OUT)}
    chosen = [model for model in parts[options.part] if fnmatch.fnmatch(model.name, options.only)]
    for missing in sorted({model.library for model in chosen if not zoo.available(model)}):
        print(f"{missing} is not installed: its models are left out; pip install 'initio[vision,hf]'", file=sys.stderr)
    chosen = [model for model in chosen if zoo.available(model)]
    state = engine()
    preload({model.library for model in chosen})
    for index, model in enumerate(chosen):
        if measurement_path(options, model).exists() and (options.measure_only or is_current(options, model, state)):
            continue
        start = time.monotonic()
        trouble = alone(options, model, state)
        print(f"[{index + 1}/{len(chosen)}] {model.name} {time.monotonic() - start:.1f} s {trouble}".rstrip(), flush=True)
    if not options.measure_only:
        options.output.write_text(page(options))
        print(f"wrote {options.output}")
        results = [json.loads(path.read_text()) for model in chosen if (path := result_path(options, model)).exists()]
        for part in TOLERANCE:
            kinds: Counter[str] = Counter()
            for result in results:
                kinds.update(result.get(part, {}).get("kinds", {}))
            print(f"{part}, failing over all models:", ", ".join(f"{count} {what}" for what, count in kinds.most_common(25)) or "nothing")


def preload(libraries: set[str]) -> None:
    """Import once what every forked process needs."""
    import torch

    torch.set_num_threads(1)
    packages = [{"hf": "transformers"}.get(library, library) for library in libraries - {"nn"}]
    for name in ("initio.capture.program", "initio.interpreters.propagate", *packages):
        importlib.import_module(name)


def alone(options: argparse.Namespace, model: Any, state: str) -> str:
    """Run one model in a process of its own, so that memory and crashes stay there; what went wrong, or nothing."""
    process = multiprocessing.get_context("fork").Process(target=worker, args=(options, model, state))
    process.start()
    process.join(options.timeout)
    if process.is_alive():
        process.kill()
        process.join()
        trouble = f"took more than {options.timeout} s"
    elif process.exitcode == 1:
        return json.loads(result_path(options, model).read_text())["error"]
    else:
        trouble = "" if process.exitcode == 0 else f"died with exit status {process.exitcode}"
    if trouble:
        write(result_path(options, model), {"name": model.name, "error": trouble, "engine": state})
    return trouble


def worker(options: argparse.Namespace, model: Any, state: str) -> None:
    """Measure one model unless that is cached, predict it, and keep the result."""
    try:
        measured = measurement(options, model)
        if not options.measure_only:
            write(result_path(options, model), judge(model, measured)[0] | {"engine": state})
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        said = f"{type(error).__name__}: {error} ({Path(frame.filename).name}:{frame.lineno})"
        write(result_path(options, model), {"name": model.name, "error": " ".join(said.split()), "engine": state})
        sys.exit(1)


# Files ------------------------------------------------------------------------------------------------------------


def slug(name: str) -> str:
    """A file name."""
    return re.sub(r"[^\w.-]+", "-", name)


def measurement_path(options: argparse.Namespace, model: Any) -> Path:
    """The key: what is built, what it is fed, how often, and the major version of the library."""
    package = {"nn": "torch", "hf": "transformers"}.get(model.library, model.library)
    version = importlib.metadata.version(package).split(".")[0]
    built = f"{model.name} {sorted(model.changes.items())!r} {[str(spec) for spec in model.inputs]} {model.dtype}"
    what = f"{built} {options.draws or model.draws} {version}"
    return options.cache / "measured" / f"{slug(model.name)}-{hashlib.sha256(what.encode()).hexdigest()[:10]}.json"


def result_path(options: argparse.Namespace, model: Any) -> Path:
    """Where the judged result of a model is kept."""
    return options.cache / "results" / f"{slug(model.name)}-{options.draws or model.draws}.json"


def engine() -> str:
    """A digest of the package's source."""
    digest = hashlib.sha256()
    for file in sorted((ROOT / "src" / "initio").rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def is_current(options: argparse.Namespace, model: Any, state: str) -> bool:
    """Whether the result was computed from the package's source as it is."""
    path = result_path(options, model)
    return path.exists() and json.loads(path.read_text()).get("engine") == state


def write(path: Path, content: Any) -> None:
    """Atomically, so that an interruption leaves no half of a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}.tmp")
    draft.write_text(json.dumps(content))
    draft.replace(path)


# Measuring and predicting -----------------------------------------------------------------------------------------


def measurement(options: argparse.Namespace, model: Any) -> dict[str, Any]:
    """Table → key → `Estimate`, with the CPU-seconds of one draw; from the cache or measured now."""
    from initio.core.estimate import Estimate

    path = measurement_path(options, model)
    if not path.exists():
        import torch

        from initio.interpreters.sample import measure

        found = measure(
            model.build, list(model.inputs), draws=options.draws or model.draws, dtype=torch.float64 if model.dtype == "float64" else None
        )
        tables = {
            name: [[key, e.mean, e.second, e.error, e.draws, e.shape, e.each] for key, e in getattr(found, name).items()] for name in TABLES
        }
        versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "timm", "torchvision") if installed(name)}
        write(path, {"name": model.name, "seconds": found.seconds / found.draws, "versions": versions, **tables})
    stored = json.loads(path.read_text())
    tables = {
        name: {
            (key if isinstance(key, str) else tuple(key)): Estimate(*rest[:4], tuple(rest[4]), tuple(rest[5]))
            for key, *rest in stored[name]
        }
        for name in TABLES
    }
    return {**tables, **{name: on_sphere(tables[name], tables) for name in TABLES[1:]}, "seconds": stored["seconds"]}


def on_sphere(estimates: dict[Any, Any], tables: dict[str, dict[Any, Any]]) -> dict[Any, Any]:
    """Gradients of each draw over the mean square of its cotangent, where the model has one output: as `measure` draws it now.

    Gradients are linear in the cotangent c = r u, and the radius r of a normal c is independent of its direction u: a draw's second
    moment divided by r² is the one that u would have shown. Of what `measure` stored since it scales c, r² is 1 and nothing changes.
    """
    from initio.core.estimate import Estimate

    roots = [estimate for (path, _, _), estimate in tables["cotangents"].items() if not path]
    outputs = [key for key in tables["outputs"] if not key[0]]
    if len(roots) != 1 or len(outputs) != 1 or not min(roots[0].each, default=0):
        return estimates
    radii, result = roots[0].each, dict(estimates)
    for key, estimate in estimates.items():
        if len(estimate.each) == len(radii):
            seconds = [second / radius for second, radius in zip(estimate.each, radii, strict=True)]
            means = [estimate.mean] * len(radii)
            result[key] = Estimate.of(means, seconds, [1] * len(radii), estimate.shape)
    return result


def installed(package: str) -> bool:
    """Whether a distribution of this name is installed."""
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def predict(model: Any) -> tuple[Any, dict[str, dict[Any, tuple[float, float, str]]], dict[tuple[str, Any], str], float]:
    """The analysis, table → key → (mean, second, claim), a description of every tensor's origin, and the CPU-seconds."""
    import initio

    start = time.process_time()
    analysis = initio.analyze(model.build, list(model.inputs))
    seconds = time.process_time() - start
    record = analysis.record
    if record.crash is not None:
        raise RuntimeError(f"the recording crashed: {record.crash.error}: {record.crash.message}")
    producers = record.producers()
    tables: dict[str, dict[Any, tuple[float, float, str]]] = {name: {} for name in TABLES}
    origins: dict[tuple[str, Any], str] = {}

    def put(table: str, key: Any, value: int | None, kind: str) -> None:
        summary = analysis.of_gradient(value)
        none = summary.claim == "none"
        tables[table][key] = (0.0, 0.0, "none") if none else (summary.mean, summary.second, summary.claim)
        node = producers.get(value) if value is not None else None
        while node is not None and node.op in ALIASES and node.inputs:
            node = producers.get(node.inputs[0])
        origins[table, key] = f"{kind} {node.op if node else ''} {summary.reason}".strip()

    for call in record.calls:
        for index, value in enumerate(call.outputs):
            key = (call.module, call.index, index)
            put("outputs", key, value, call.kind)
            put("cotangents", key, call.cotangents[index] if index < len(call.cotangents) else None, call.kind)
    for parameter in record.parameters:
        if not parameter.buffer:
            put("gradients", parameter.name, parameter.gradient, "parameter")
    # A record names positional inputs by the parameters of `forward`, a measurement numbers them.
    for index, (item, spec) in enumerate(zip(record.inputs, model.inputs, strict=True)):
        put("inputs", spec.name or str(index), item.gradient, "input")
    return analysis, tables, origins, seconds


def judge(model: Any, measured: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[tuple[str, Any], str]]:
    """The summary of a model for the page, its comparisons, and the origins of its tensors."""
    from initio.interpreters.compare import compare

    _, tables, origins, seconds = predict(model)
    gradient_keys = [(table, key) for table in TABLES[1:] for key in measured[table]]
    comparisons = {
        "forward": compare(
            {("outputs", key): value for key, value in tables["outputs"].items()},
            {("outputs", key): value for key, value in measured["outputs"].items()},
            tolerance=TOLERANCE["forward"],
        ),
        "gradients": compare(
            {(table, key): tables[table][key] for table in TABLES[1:] for key in tables[table]},
            {(table, key): measured[table][key] for table, key in gradient_keys},
            tolerance=TOLERANCE["gradients"],
        ),
    }
    summary: dict[str, Any] = {"name": model.name, "cpu": seconds, "draw": measured["seconds"]}
    summary["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    for part, comparison in comparisons.items():
        worst = comparison.worst
        summary[part] = {
            "nodes": comparison.nodes,
            "unknown": comparison.unknown,
            "simulated": comparison.simulated,
            "median": comparison.median,
            "p95": comparison.p95,
            "worst": worst.error if worst else math.nan,
            "where": label(worst.key) if worst else "",
            "passing": comparison.passing,
            "failing": [(label(row.key), row.error, row.z, origins.get(row.key, "")) for row in comparison.rows if not row.passes][:40],
            "kinds": Counter(kind(row, origins) for row in comparison.rows if not row.passes),
        }
    return summary, comparisons, origins


def label(key: tuple[str, Any]) -> str:
    """A tensor's name: table, path, and the numbers of call and output where they are not 0."""
    table, rest = key
    if isinstance(rest, str):
        return f"{rest} (d)" if table != "inputs" else f"input {rest} (d)"
    path, call, output = rest
    return (
        f"{path or '(model)'}{f' call {call}' if call else ''}{f' output {output}' if output else ''}{' (d)' if table != 'outputs' else ''}"
    )


def kind(row: Any, origins: dict[tuple[str, Any], str]) -> str:
    """What a failing tensor is: the class of its module and its operation, and whether it has no claim."""
    return " ".join(origins.get(row.key, "not predicted").split(" ")[:2]) + (" (unknown)" if row.claim == "unknown" else "")


# Printing ---------------------------------------------------------------------------------------------------------


def explain(options: argparse.Namespace) -> None:
    """The worst tensors of one model, and which kinds of modules fail."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    import zoo

    preload({options.model.split(":")[0]})
    model = zoo.ZOO[options.model]
    summary, comparisons, origins = judge(model, measurement(options, model))
    console = Console(width=max(Console().width, 200))
    for part, comparison in comparisons.items():
        told = {name: value for name, value in summary[part].items() if name not in ("failing", "kinds")}
        console.print(f"[bold]{part}[/bold] " + " ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in told.items()))
        if comparison.unmeasured:
            print(f"  predicted, not measured: {', '.join(map(label, comparison.unmeasured[:5]))} ({len(comparison.unmeasured)})")
        table = Table(
            *("tensor", "shape", "claim", "predicted", "measured", "error", "z", "mean", "measured mean", "origin"), box=box.SIMPLE
        )
        for row in comparison.rows[: options.worst]:
            numbers = (row.predicted, row.measured, row.error, row.z, row.predicted_mean, row.measured_mean)
            shape = "x".join(map(str, row.shape))
            table.add_row(label(row.key), shape, row.claim, *(f"{number:.4g}" for number in numbers), origins.get(row.key, "not predicted"))
        console.print(table)
        if summary[part]["kinds"]:
            print("  failing:", ", ".join(f"{count} {what}" for what, count in summary[part]["kinds"].most_common(12)), "\n")
    print(f"analysis {summary['cpu']:.2f} CPU-s, one measured draw {summary['draw']:.2f} CPU-s, peak {summary['memory']:.0f} MB")


def page(options: argparse.Namespace) -> str:
    """The accuracy page from all results in the cache."""
    import zoo

    lines = [
        "# Accuracy",
        "",
        "Predicted against measured, over every output of every module call (*forward*) and every parameter gradient, module",
        "cotangent and input gradient (*gradients*) of real models under their own initialisation; nothing is left out, nothing",
        f"is anchored to a measured value. The measurement is {options.draws or '8 to 32'} runs of the real model, with fresh weights,",
        "inputs and cotangents of mean square 1. The error is |predicted rms / measured rms − 1|. A tensor passes within 5 % (gradients:",
        "10 %) or within two standard errors of the measurement; one without a claim does not pass. CPU-s is the whole analysis,",
        "forward and backward; a draw is one measured step.",
        "`make zoo` writes this page.",
        "",
    ]
    for title, part in (("Listed models", zoo.LISTED), ("Held-out models", zoo.HELD_OUT)):
        results = [json.loads(path.read_text()) for model in part if (path := result_path(options, model)).exists()]
        lines += [f"## {title}", "", *section(results), ""]
    return "\n".join(lines)


def section(results: list[dict[str, Any]]) -> list[str]:
    """Totals and the two tables of a part of the zoo."""
    good = [result for result in results if "error" not in result]
    lines: list[str] = []
    for part in TOLERANCE:
        rows = [result[part] for result in good]
        if rows:
            nodes = sum(row["nodes"] for row in rows)
            passing = sum(row["nodes"] * row["passing"] for row in rows) / max(nodes, 1)
            middle = median(row["median"] for row in rows)
            claimed = sum(not row["unknown"] for row in rows) / len(rows)
            lines += [
                f"*{part}*: {len(rows)} models, {nodes} tensors, {passing:.2%} pass; the median model's median error is {middle:.2%}; "
                f"{claimed:.0%} of the models have no tensor without a claim.",
                "",
            ]
    for part in TOLERANCE:
        lines += [
            f"### {part.capitalize()}",
            "",
            "| model | nodes | unknown | simulated | median | p95 | worst | at | pass | CPU-s | draw CPU-s |",
            "|---|--:|--:|--:|--:|--:|--:|---|--:|--:|--:|",
        ]
        for result in results:
            if "error" in result:
                lines.append(f"| {result['name']} | failed: {result['error'][:150].replace('|', '/')} | | | | | | | | | |")
                continue
            row = result[part]
            where = f"`{row['where']}`" if row["where"] else ""
            errors = " | ".join(percent(row[name]) for name in ("median", "p95", "worst"))
            counts = f"{row['nodes']} | {row['unknown']} | {row['simulated']}"
            cost = f"{result['cpu']:.2f} | {result['draw']:.2f}"
            lines.append(f"| {result['name']} | {counts} | {errors} | {where} | {row['passing']:.1%} | {cost} |")
        lines.append("")
    return lines


def percent(number: float) -> str:
    """Two digits, "–" where there is nothing."""
    return "–" if math.isnan(number) else f"{100 * number:.2g} %"


if __name__ == "__main__":
    main()
