"""How fast the report page is in a browser: first paint, and what passes between an input and the next frame.

    python benchmarks/page.py            # needs transformers, playwright and Chromium (or CHROMIUM=path)

Wall-clock milliseconds, the median of `--rounds` openings of each page from a file; an interaction ends two frames after its event.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

import initio
from initio.api.targets import resolve

LLAMA = {
    "hidden_size": 16384, "intermediate_size": 53248, "num_hidden_layers": 126, "num_attention_heads": 128, "num_key_value_heads": 8,
    "vocab_size": 128256,
}  # fmt: skip
PAGES = {
    "ResNet-50": ("hf:resnet", {"num_labels": 1000}, "8x3x224x224"),
    "Llama, 126 layers": ("hf:llama", LLAMA, "1x512:int(128256)"),
}
PAINT = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
FRAMES = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - {start}))))"


def main() -> None:
    """Print the table."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    print("| report | MB | first paint | ready | unfold all | sort | search | select |\n|---|--:|--:|--:|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for name, (target, arguments, inputs) in PAGES.items():
            file = Path(folder) / "page.html"
            file.write_text(initio.check(resolve(target, arguments).build, inputs, target=name).to_html(), encoding="utf-8")
            found = [opened(browser, file) for _ in range(rounds)]
            medians = [statistics.median(column) for column in zip(*found, strict=True)]
            print(f"| {name} | {file.stat().st_size / 1e6:.2f} | {' | '.join(f'{each:.0f} ms' for each in medians)} |")
        browser.close()


def opened(browser: Any, file: Path) -> list[float]:
    """First paint, time until the page answers, and four interactions."""
    tab = browser.new_page()
    tab.goto(file.as_uri())
    tab.wait_for_selector("html[data-ready]")
    ready = tab.evaluate("performance.now()")
    times = [tab.evaluate(PAINT), ready]
    unfold = "[...document.querySelectorAll('button')].find(each => each.innerText.trim() === 'Unfold all').click()"
    sort = "[...document.querySelectorAll('#table [aria-sort]')].find(each => each.innerText.startsWith('parameters')).click()"
    search = "(() => { const box = document.querySelector('#search'); box.value = 'norm'; box.dispatchEvent(new Event('input', {bubbles: true})); })()"
    select = "document.querySelector('#table .body .row').click()"
    frames = FRAMES.format(start="start")
    times += [
        tab.evaluate(f"(() => {{ const start = performance.now(); {act}; return {frames}; }})()") for act in (unfold, sort, search, select)
    ]
    tab.close()
    return times


if __name__ == "__main__":
    main()
