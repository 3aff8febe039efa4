"""Writes the reports of the gallery while the documentation is built, and the table that links to them."""

from __future__ import annotations

import functools
import pkgutil
from importlib.resources import files as package_files
from typing import Any

from mkdocs.structure.files import File

import initio
from initio.api.contrast import compare_models
from initio.api.targets import resolve
from initio.render.html import contrasted, page
from initio.render.payload import payload

LLAMA = {
    "hidden_size": 16384, "intermediate_size": 53248, "num_hidden_layers": 126, "num_attention_heads": 128, "num_key_value_heads": 8,
    "vocab_size": 128256, "max_position_embeddings": 131072, "rope_theta": 500000.0, "tie_word_embeddings": False,
}  # fmt: skip
"""The configuration of Llama 3.1 405B (Grattafiori et al. 2024, table 3)."""
MODELS: list[tuple[str, str, str, dict[str, Any], Any]] = [
    ("resnet50", "ResNet-50", "hf:resnet", {"num_labels": 1000}, "8x3x224x224"),
    ("llama-405b", "Llama 3.1 405B, 126 layers, 512 tokens", "hf:llama", LLAMA, "1x512:int(128256)"),
]
EXAMPLES = sorted(info.name for info in pkgutil.iter_modules([str(package_files("initio.examples"))]))
MARK = "<!-- gallery -->"


@functools.cache
def reports() -> tuple[dict[str, str], str]:
    """Page name → HTML, and the rows of the table."""
    pages: dict[str, str] = {}
    rows: list[str] = []
    examples = [(name.replace("_", "-"), f"`initio.examples.{name}`", f"initio.examples.{name}:Model", {}, None) for name in EXAMPLES]
    for name, title, target, arguments, inputs in [*MODELS, *examples]:
        found = resolve(target, arguments)
        report = initio.check(found.build, inputs or found.inputs, loss=found.loss, target=title.strip("`"))
        pages[name] = page(report)
        totals = payload(report)["totals"]
        codes = ", ".join(dict.fromkeys(f"{finding.code} ({finding.severity})" for finding in report.findings)) or "none"
        rows.append(f"| {title} | {totals['parameters']:,} | {codes} | [report](gallery/{name}.html) |")
    bottleneck = resolve("initio.examples.bottleneck:Model")
    split = resolve("initio.examples.bottleneck:Model", {"paths": 32, "width": 4})
    both = compare_models(bottleneck.build, split.build, bottleneck.inputs, names=("bottleneck", "32 paths of width 4"))
    pages["bottleneck-and-split"] = contrasted(both)
    rows.append("| a bottleneck and 32 paths of its size | 213,504 and 78,592 | | [comparison](gallery/bottleneck-and-split.html) |")
    return pages, "\n".join(["| model | parameters | findings | |", "|---|--:|---|---|", *rows])


def on_files(files: Any, *, config: Any) -> Any:
    """Add the reports to the site."""
    for name, text in reports()[0].items():
        files.append(File.generated(config, f"gallery/{name}.html", content=text))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Put the table where the gallery wants it."""
    return markdown.replace(MARK, reports()[1]) if page.file.src_uri == "gallery.md" else markdown
