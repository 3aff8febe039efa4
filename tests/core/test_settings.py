import json

import pytest

from initio.core.analysis import Analysis
from initio.core.errors import InitioError
from initio.core.finding import Finding
from initio.core.record import Node, Record, Source
from initio.core.report import Report
from initio.core.settings import find, load, validate
from initio.core.suppressions import baseline_text, comments, read_baseline, suppress


def written(tmp_path, text):
    file = tmp_path / "pyproject.toml"
    file.write_text(text)
    return file


def test_all_keys(tmp_path):
    file = written(
        tmp_path,
        """
        [tool.initio]
        select = ["REG", "sig101"]
        ignore = "PRF"
        fail-on = "error"
        baseline = "known.json"
        [tool.initio.per-module-ignores]
        "backbone.*" = ["NRM101"]
        [tool.initio.targets]
        "a.py:Net" = "8x16"
        [tool.initio.targets."b.py:Net"]
        inputs = { x = "8x16", mask = "8x16:bool" }
        loss = "mse"
        args = { width = 64 }
        eval = true
        """,
    )
    settings = load(file)
    assert settings.select == ("REG", "SIG101")
    assert settings.ignore == ("PRF",)
    assert settings.fail_on == "error"
    assert settings.baseline == tmp_path / "known.json"
    assert settings.per_module == {"backbone.*": ("NRM101",)}
    first, second = settings.targets
    assert (first.target, first.inputs, first.eval) == ("a.py:Net", "8x16", False)
    assert (second.inputs["mask"], second.loss, second.args, second.eval) == ("8x16:bool", "mse", {"width": 64}, True)
    (tmp_path / "inner").mkdir()
    assert find(tmp_path / "inner") == file


@pytest.mark.parametrize(
    "text, said",
    [
        ("[tool.initio]\nselct = []", "'selct'"),
        ("[tool.initio]\nselect = 3", "3 came"),
        ("[tool.initio]\nfail-on = 'maybe'", "'maybe'"),
        ("[tool.initio]\nselect = [", "TOML"),
        ("[tool.initio.targets.'a.py:A']\nshape = '8'", "'shape'"),
        ("[tool.initio.targets.'a.py:A']\neval = 'yes'", "'yes'"),
        ("tool = 3", "a table"),
    ],
)
def test_what_is_wrong_is_said_with_the_file(tmp_path, text, said):
    with pytest.raises(InitioError, match=said) as caught:
        load(written(tmp_path, text))
    assert "pyproject.toml" in str(caught.value)


def test_an_unknown_code_names_the_file(tmp_path):
    def refuse(codes):
        raise InitioError("a code", f"{codes[0]!r} came")

    with pytest.raises(InitioError, match=r"'XYZ' came.*pyproject\.toml"):
        validate(load(written(tmp_path, "[tool.initio]\nselect = ['XYZ']")), refuse)


def report(*findings, file="", lines=()):
    nodes = tuple(Node(i, "aten.relu.default", (), {}, (), "forward", source=Source(file, line)) for i, line in enumerate(lines))
    return Report("t", findings, Analysis.build(Record(nodes, (), (), (), (), ()), {}))


def finding(code, module="a", line=1, file="", also=()):
    return Finding(code, "name", "warning", "message", module, Source(file, line), also=also)


def test_comments_are_tokens_and_name_codes(tmp_path):
    file = tmp_path / "m.py"
    file.write_text(
        'a = 1  # initio: ignore[REG101, SIG]\nb = "# initio: ignore"\nc = 2  # initio: ignore\nd = 3  # initio: ignore[NRM101]\n'
    )
    assert [(each.line, each.codes) for each in comments(str(file))] == [(1, ("REG101", "SIG")), (3, ()), (4, ("NRM101",))]
    given = [
        finding(code, line=line, file=str(file))
        for code, line in (("SIG101", 1), ("GRD104", 1), ("ATT101", 3), ("ACT101", 4), ("REG101", 2))
    ]
    kept = suppress(report(*given, file=str(file), lines=[1, 2, 3, 4]), {})
    assert [each.code for each in kept.findings] == ["GRD104", "ACT101", "REG101"]
    assert kept.ignored == 2
    assert kept.remarks == (f"unused suppression at {file}:4: NRM101 is not found there",)
    assert suppress(report(*given, file=str(file)), {}, judged=lambda code: code != "NRM101").remarks == ()


def test_patterns_silence_what_lies_within_them():
    inside, beyond = finding("NRM101", "backbone.a", also=("backbone.b",)), finding("NRM101", "backbone.a", also=("head",))
    assert suppress(report(inside, beyond), {"backbone.*": ("NRM",)}).findings == (beyond,)


def test_baselines_know_findings_again_and_say_what_is_gone(tmp_path):
    file = tmp_path / "known.json"
    old = [finding("NRM101", line=1), finding("SIG101")]
    file.write_text(baseline_text([report(*old)]))
    now = [finding("NRM101", line=40), finding("NRM101", module="b")]
    after = suppress(report(*now), {}, read_baseline(file))
    assert after.findings == (now[1],)
    assert after.remarks == ("1 findings of the baseline are gone; write it anew to keep them out",)


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": "other"}', json.dumps({"schema": "initio.baseline/1", "targets": {"t": [{}]}})])
def test_a_corrupt_baseline(tmp_path, text):
    file = tmp_path / "known.json"
    file.write_text(text)
    with pytest.raises(InitioError, match="--write-baseline"):
        read_baseline(file)
