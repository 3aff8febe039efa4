"""SARIF against its schema, and the lines that GitHub reads."""

import json
from pathlib import Path

import pytest

from initio.core.analysis import Analysis
from initio.core.finding import Finding
from initio.core.record import Record, Source
from initio.core.report import Report
from initio.render import github, sarif

RULES = [
    ("REG101", "unregistered-submodule", "error", "Summary.", "# page"),
    ("SIG101", "vanishing-signal / exploding-signal", "warning", "S.", "p"),
]
SCHEMA = json.loads((Path(__file__).parent / "sarif-2.1.0-subset.json").read_text())


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
        ),
        Finding("SIG101", "vanishing-signal", "warning", "small", "", None, {}, "Scale.", also=("a", "b")),
    )
    return [Report("models.py:Net", findings, Analysis.build(Record((), (), (), (), (), ()), {}))]


def document():
    return json.loads(sarif.render(reports(), RULES, "1.2.3"))


def test_sarif_is_valid():
    validate = pytest.importorskip("jsonschema").validate
    validate(document(), SCHEMA)
    broken = document()
    broken["runs"][0]["results"][0]["level"] = "grave"
    with pytest.raises(Exception, match="grave"):
        validate(broken, SCHEMA)


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
