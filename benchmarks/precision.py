"""What the checks say of published models, which should be nothing: writes docs/precision.md.

    python benchmarks/precision.py                    # resumes where it was interrupted; needs torchvision, timm and transformers
    python benchmarks/precision.py --only 'timm:*'    # some models
    python benchmarks/precision.py --keep             # results of an older state of the package stay
    python benchmarks/precision.py --page             # the page alone, from the results that exist

Every model is built from its library's default configuration (transformers: a small one), checked by every check on a training step
in a process of its own, on one thread, for at most `--timeout` seconds. Results are lines of JSON in build/precision.jsonl.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib
import json
import multiprocessing
import os
import re
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "benchmarks")]


def main() -> None:
    """Read the options and run."""
    import published
    from accuracy import engine

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "precision.jsonl", help="where results are kept")
    parser.add_argument("--only", default="*", help="pattern of model names")
    parser.add_argument("--timeout", type=int, default=150, help="seconds for one model")
    parser.add_argument("--keep", action="store_true", help="results of an older state of the package stay, errors aside")
    parser.add_argument("--again", action="store_true", help="check the chosen models again")
    parser.add_argument("--page", action="store_true", help="write the page and check nothing")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "precision.md")
    options = parser.parse_args()
    os.environ.update({"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"})
    warnings.simplefilter("ignore")
    state = engine()
    if not options.page:
        names = [name for name in published.NAMES if fnmatch.fnmatch(name, options.only)]
        preload({name.split(":")[0] for name in names})
        known = results(options.cache)
        for index, name in enumerate(names):
            before = known.get(name)
            if before is not None and not options.again and (before["engine"] == state or (options.keep and "error" not in before)):
                continue
            result = alone(name, options.timeout)
            options.cache.parent.mkdir(parents=True, exist_ok=True)
            with options.cache.open("a") as file:
                file.write(json.dumps({"name": name, "engine": state, **result}) + "\n")
            said = result.get("error") or " ".join(f"{code} {n}" for code, n in Counter(f["code"] for f in result["findings"]).items())
            print(f"[{index + 1}/{len(names)}] {name} {result['seconds']:.1f} s {said}".rstrip(), flush=True)
    options.output.write_text(page(results(options.cache), published.NAMES))
    print(f"wrote {options.output}")


def results(cache: Path) -> dict[str, dict[str, Any]]:
    """Name → its last result; a line that an interruption cut off does not count."""
    found: dict[str, dict[str, Any]] = {}
    for line in cache.read_text().splitlines() if cache.exists() else ():
        try:
            result = json.loads(line)
        except json.JSONDecodeError:
            continue
        found[result["name"]] = result
    return found


def preload(libraries: set[str]) -> None:
    """Import once what every forked process needs."""
    import torch

    torch.set_num_threads(1)
    for name in ("initio.api.steps", "initio.checks.framework", "initio.capture.program", "initio.interpreters.propagate"):
        importlib.import_module(name)
    for library in libraries:
        importlib.import_module({"hf": "transformers"}.get(library, library))


def alone(name: str, timeout: int) -> dict[str, Any]:
    """Check one model in a process of its own, so that memory, crashes and endless loops stay there."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=worker, args=(name, there))
    start = time.monotonic()
    process.start()
    there.close()
    result: dict[str, Any] = {}
    try:
        result = here.recv() if here.poll(timeout) else {"error": f"took more than {timeout} s"}
    except EOFError:
        process.join()
        result = {"error": f"ended with status {process.exitcode}"}
    process.kill()
    process.join()
    return {"seconds": time.monotonic() - start, **result}


def worker(name: str, sink: Any) -> None:
    """Send what the checks say of a model, or why they could not be run."""
    import published

    import initio

    try:
        build, inputs = published.built(name)
        start = time.process_time()
        report = initio.check(build, inputs, target=name)
        findings = [
            {
                "code": finding.code,
                "name": finding.name,
                "severity": finding.severity,
                "module": finding.module,
                "message": finding.message,
                "source": str(finding.source or ""),
                "also": len(finding.also),
            }
            for finding in report.findings
        ]
        unknown = len(report.analysis.unknown)
        sink.send({"findings": findings, "unknown": unknown, "nodes": len(report.analysis.nodes), "cpu": time.process_time() - start})
    except BaseException as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        sink.send({"error": f"{type(error).__name__}: {str(error)[:300]} ({Path(last.filename).name}:{last.lineno})"})


def page(found: dict[str, dict[str, Any]], names: Iterable[str]) -> str:
    """The page from the results that exist."""
    import published

    chosen = [found[name] for name in names if name in found]
    good = [result for result in chosen if "error" not in result]
    libraries = Counter(result["name"].split(":")[0] for result in good)
    gating = [(r["name"], f) for r in good for f in r["findings"] if f["severity"] != "note"]
    notes = [sum(f["severity"] == "note" for f in r["findings"]) for r in good]
    lines = [
        "# Precision",
        "",
        "All checks, those on predicted moments included, on a training step of published models under their authors' initialisation;",
        "a finding that stands has its reason beside it. `python benchmarks/precision.py` writes this page.",
        "",
        f"{len(good)} models ({', '.join(f'{count} of {library}' for library, count in libraries.items())}): "
        f"errors: {sum(f['severity'] == 'error' for _, f in gating)}, warnings: {sum(f['severity'] == 'warning' for _, f in gating)}, "
        f"on {len({name for name, _ in gating})} of them; notes: {sum(notes)}, at most {max(notes, default=0)} on one model.",
        "",
        "## Errors and warnings",
        "",
        "| model | code | module | says | it stands because |",
        "|---|---|---|---|---|",
    ]
    for name, finding in gating:
        more = f" (and {finding['also']} more)" if finding["also"] else ""
        said = finding["message"].replace("|", "/").replace("\n", " ")
        why = published.REASONS.get((name, finding["code"]), "")
        lines.append(f"| {name} | {finding['code']} | `{finding['module'] or '(model)'}`{more} | {said} | {why} |")
    counted: dict[str, list[str]] = {}
    for result in good:
        for finding in result["findings"]:
            if finding["severity"] == "note":
                counted.setdefault(f"{finding['code']} {finding['name']}", []).append(result["name"])
    lines += ["", "## Notes", "", "| note | models |", "|---|--:|", *(f"| {c} | {len(set(m))} |" for c, m in sorted(counted.items()))]
    failed = [result for result in chosen if "error" in result]
    if failed:
        lines += ["", "## Not checked", "", "| model | why |", "|---|---|"]
        said = [re.sub(r"\(/\S+\)|/\S+/", "", " ".join(r["error"].split()))[:150].replace("|", "/") for r in failed]
        lines += [f"| {r['name']} | {text} |" for r, text in zip(failed, said, strict=True)]
    lines += ["", "## Models", "", "| model | operations | errors | warnings | notes | CPU-s |", "|---|--:|--:|--:|--:|--:|"]
    for result in good:
        counts = Counter(finding["severity"] for finding in result["findings"])
        told = f"{counts['error']} | {counts['warning']} | {counts['note']}"
        lines.append(f"| {result['name']} | {result['nodes']} | {told} | {result['cpu']:.1f} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
