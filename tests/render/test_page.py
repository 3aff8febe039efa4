import json
import re

import pytest

import initio
from initio.api.contrast import compare_models
from initio.api.targets import resolve
from initio.cli import status
from initio.core.analysis import Analysis
from initio.render.diagram import diagram
from initio.render.html import contrasted, embedded, frame, page, report_of
from initio.render.payload import payload
from render.pages import DATA, HOSTILE, Network, payload_of


@pytest.fixture(scope="module")
def report():
    return initio.check(Network, "8x16", target="network")


def test_the_page_holds_what_was_computed(report):
    data = payload_of(report.to_html())
    modules = data["modules"]
    at = modules["path"].index("blocks.1.first")
    result = report.analysis.modules["blocks.1.first"]
    assert modules["rms"][at] == pytest.approx(result.rms, rel=1e-4)
    assert modules["grad"][at] == pytest.approx(result.grad_rms, rel=1e-4)
    assert modules["low"][at] == pytest.approx(result.band[0], rel=1e-4)
    assert modules["params"][at] == 16 * 17
    assert modules["macs"][at] == 8 * 16 * 16
    assert modules["path"][modules["parent"][at]] == "blocks.1"
    assert data["totals"]["parameters"] == 4 * 2 * 16 * 17 + 4 * 17
    assert [fork["skip"] for fork in data["forks"]] == pytest.approx([fork.skip_share for fork in report.analysis.paths], rel=1e-4)
    assert len(data["points"]["columns"]["rms"]) == 4 * 3 + 1
    lengths = {len(column) for column in modules.values()}
    assert lengths == {len(modules["path"])}


def test_ratio_pools_weights_and_biases(report):
    data = payload_of(report.to_html())
    at = data["modules"]["path"].index("head")
    weight, bias = (report.analysis.parameters[f"head.{name}"] for name in ("weight", "bias"))
    expected = ((64 * weight.grad_rms**2 + 4 * bias.grad_rms**2) / (64 * weight.rms**2 + 4 * bias.rms**2)) ** 0.5
    assert data["modules"]["ratio"][at] == pytest.approx(expected, rel=1e-4)


def test_nothing_is_loaded(report):
    text = report.to_html()
    assert len(text.encode()) < 300_000
    assert "default-src 'none'" in text
    without = DATA.sub("", text)
    assert not re.search(r"<(link|img|iframe|object|embed)\b", without)
    assert not re.search(r"""\b(src|href)\s*=\s*["']?(?!["']?#)\S*:""", without)
    assert not re.search(r"@import|url\((?!#)|\bfetch\(|XMLHttpRequest|WebSocket|\bimport\(", without)
    assert not re.search(r"\{\{[A-Z_]+\}\}", without)


@pytest.mark.parametrize("name", [HOSTILE, "n" * 10_000, "{{SCRIPT}}", "é\u2028\u2029"])
def test_hostile_names_stay_data(name):
    text = page(report_of(initio.analyze(lambda: Network(name, depth=1), "8x16"), name))
    assert text.count("</script>") == 3
    assert "<img" not in text
    data = payload_of(text)
    assert name in data["modules"]["path"]
    assert data["target"] == name


def test_embedded_is_json_without_markup():
    value = {"a": [HOSTILE, 1.5, None, "\u2028"]}
    text = embedded(value)
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == value
    with pytest.raises(ValueError, match="JSON"):
        embedded({"a": float("nan")})


def test_diagram_joins_what_reads_with_what_made(report):
    drawn = diagram(report.analysis.record)
    labels = [box.label for box in drawn.boxes]
    assert labels[:5] == ["x", "first", "act", "second", "add"]
    assert {(0, 1), (1, 2), (2, 3), (3, 4), (0, 4)} <= set(drawn.edges)
    assert [box.layer for box in drawn.boxes[:5]] == [0, 1, 2, 3, 4]
    assert all(drawn.boxes[a].layer < drawn.boxes[b].layer for a, b in drawn.edges)
    coarse = diagram(report.analysis.record, largest=8)
    assert [box.label for box in coarse.boxes] == ["x", "0", "1", "2", "3", "head"]
    assert coarse.level == 2
    assert len(diagram(report.analysis.record, largest=1).boxes) <= 3


def test_measured_points():
    analysis = initio.analyze(Network, "8x16")
    sides = initio.api.compare(analysis, initio.measure(Network, "8x16", draws=2, progress=False))
    text = page(report_of(analysis, "network"), {"outputs": sides.outputs, "cotangents": sides.cotangents})
    columns = payload_of(text)["points"]["columns"]
    assert None not in columns["measured_outputs"]
    measured = next(row.measured for row in sides.outputs.rows if row.key == ("blocks.0.first", 0, 0))
    assert columns["measured_outputs"][0] == pytest.approx(measured, rel=1e-4)


def test_notebook_frame(report):
    analysis: Analysis = report.analysis
    assert payload_of(analysis.to_html())["target"] == "Network"
    shown = frame(analysis.to_html())
    assert shown.startswith("<iframe")
    assert shown.count("<") == 2  # the frame's own tags
    assert 'sandbox="allow-scripts"' in shown


def test_a_crash_still_makes_a_page():
    class Wrong(Network):
        def forward(self, x):
            return self.head(super().forward(x))

    data = payload_of(initio.analyze(Wrong, "8x16").to_html())
    assert "RuntimeError" in data["crash"]


def test_command_line(tmp_path, capsys):
    path = tmp_path / "page.html"
    assert status(["report", "initio.examples.residual:Model", "-o", str(path)]) == 0
    assert payload_of(path.read_text(encoding="utf-8"))["target"] == "initio.examples.residual:Model"
    assert str(path) in capsys.readouterr().err
    assert status(["report", "initio.examples.residual:Model", "--select", "NONE", "-o", str(path)]) == 2


def test_the_derivation_is_a_folded_section(report):
    derivation = initio.derive(Network, "8x16", what=("signal", "gradient"), title="network")
    text = report.to_html(derivation=derivation)
    section = re.search(r'<section id="derivation">.*?</section>', text, re.DOTALL)[0]
    assert section.count("<math") == sum(len(step.formulas) for step in derivation) > 0
    assert "<details" in section
    assert f"{len(derivation)} steps" in section
    assert 'id="derivation"' not in DATA.sub("", report.to_html())
    hostile = initio.derive(lambda: Network(HOSTILE, depth=1), "8x16", what=("signal", "gradient"), title=HOSTILE)
    text = initio.analyze(lambda: Network(HOSTILE, depth=1), "8x16").to_html(derivation=hostile)
    assert text.count("</script>") == 3
    assert "<img" not in text


def test_fixes_are_shown_as_diffs(tmp_path, monkeypatch):
    file = tmp_path / "shown.py"
    file.write_text(
        "from torch import nn\n\n\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.conv = nn.Conv2d(3, 8, 3, padding=1)\n        self.norm = nn.BatchNorm2d(8)\n\n"
        "    def forward(self, x):\n        return self.norm(self.conv(x))\n"
    )
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "page.html"
    assert status(["report", "shown.py:Net", "-i", "4x3x8x8", "--derive", "-o", str(path)]) == 0
    text = path.read_text(encoding="utf-8")
    assert 'id="derivation"' in text
    found = next(each for each in payload_of(text)["findings"] if each["code"] == "NRM101")
    assert "+        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)" in found["diff"].splitlines()
    assert file.read_text().count("bias") == 0


def test_two_models_on_one_page(tmp_path):
    path = tmp_path / "two.html"
    target = "initio.examples.plain_mlp:Model"
    assert status(["compare", target, "initio.examples.residual:Model", "-o", str(path)]) == 0
    data = payload_of(path.read_text(encoding="utf-8"))
    assert data["names"] == [target, "initio.examples.residual:Model"]
    first, second = (resolve(name) for name in data["names"])
    for side, found in ((data, first), (data["b"], second)):
        report = initio.check(found.build, found.inputs, loss=found.loss)
        columns = side["points"]["columns"]
        assert columns["rms"] == payload(report)["points"]["columns"]["rms"]
        assert [item["code"] for item in side["findings"]] == [item.code for item in report.findings]
    figures = {name: (a, b) for name, a, b in data["figures"]}
    assert figures["parameters"] == tuple(initio.count(f.build, f.inputs).parameters.total for f in (first, second))


def test_hostile_names_on_the_page_of_two(report):
    names = (HOSTILE, "{{DATA}}")
    models = (lambda: Network(HOSTILE, depth=1), Network)
    text = contrasted(compare_models(*models, "8x16", names=names))
    assert text.count("</script>") == 3
    assert "<img" not in text
    assert payload_of(text)["names"] == list(names)
