import io
import json

import pytest
from rich.console import Console
from torch import nn

from initio.api import count
from initio.api.contrast import compare_models
from initio.cli import status
from initio.examples.bottleneck import Model
from initio.render import contrast as side
from initio.render.counts import amount, markdown, rows, show


def network():
    blocks = (nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.GELU()) for _ in range(12))
    return nn.Sequential(nn.Linear(64, 64), nn.Sequential(*blocks), nn.Linear(64, 10))


def printed(what, value, **options):
    sink = io.StringIO()
    what(value, Console(file=sink, width=80, highlight=False, markup=False, emoji=False), **options)
    return sink.getvalue()


def test_numbers():
    assert [amount(n) for n in (0, 999, 1000, 999_960, 4_089_184_256, 1e22)] == ["0", "999", "1.000 k", "1.000 M", "4.089 G", "1.000e+04 E"]


def test_equal_neighbours_are_folded():
    counts = count(network, (2, 64))
    lines = rows(counts, 3)
    folded = [row for row in lines if row.repeated > 1]
    assert [(row.name, row.repeated) for row in folded] == [("0 … 11", 12)]
    assert folded[0].module.forward.macs == 2 * 64 * 64
    assert [row.name for row in rows(counts, 0)] == ["(model)"]


def test_text_fits_80_columns():
    text = printed(show, count(network, (2, 64), symbolic=["batch"]), depth=3)
    assert max(map(len, text.splitlines())) <= 80
    assert "0 … 11 (12 ×)" in text
    assert "56,266 parameters" in text
    assert "forward.macs = 53,888·batch" in text
    assert "FLOPs = 2 MACs" in text


def test_markdown_holds_the_same_rows():
    text = markdown(count(network, (2, 64)), depth=2)
    assert "| forward | 107.8 k | 215.6 k |" in text
    assert "`0 … 11` × 12 Sequential" in text
    assert "2x64 → 2x64" in text


@pytest.mark.parametrize("timed", [False, True])
def test_two_models_side_by_side(timed):
    found = compare_models(Model, lambda: Model(paths=32, width=4), "2x256x7x7", names=("plain", "split"), timed=timed)
    data = json.loads(found.to_json())
    assert data["a"]["figures"]["parameters"] == 213_504
    assert data["b"]["figures"]["parameters"] == 78_592
    assert data["ratios"]["parameters"] == pytest.approx(78_592 / 213_504)
    assert (data["a"]["figures"]["seconds for a step"] is not None) == timed
    assert len(data["a"]["profile"]) == 6
    text = printed(side.show, found)
    assert max(map(len, text.splitlines())) <= 80
    assert "213,504" in text
    assert "78,592" in text
    assert "gradient rms" in text
    assert "| parameters | 213,504 | 78,592 | 0.368 |" in side.markdown(found)


def test_command_line(capsys):
    target = "initio.examples.bottleneck:Model"
    assert status(["count", target, "--depth", "1"]) == 0
    assert "213,504 parameters" in capsys.readouterr().out
    assert status(["count", target, "-f", "json", "--symbolic", "batch", "--forward-only"]) == 0
    assert json.loads(capsys.readouterr().out)["symbolic"]["forward.macs"] == "41,746,432·batch"
    assert status(["compare", target, "--arg-b", "paths=32", "--arg-b", "width=4", "-f", "markdown"]) == 0
    assert "78,592" in capsys.readouterr().out
    for arguments, said in (
        (["compare", target], "--arg-b"),
        (["count", target, "--attention", "x"], "fused"),
        (["count", target, "--symbolic", "x"], "batch"),
    ):
        assert status(arguments) == 2
        assert said in capsys.readouterr().err
