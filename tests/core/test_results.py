import json
import math

import pytest

from initio.core.analysis import Analysis, Summary
from initio.core.distribution import Distribution
from initio.core.finding import Finding
from initio.core.plain import dumps
from initio.core.record import Call, Input, Node, Output, Parameter, Record, Ref, Value
from initio.core.report import Report, exit_status


def shared_layer() -> Record:
    """x → relu → relu, one module called twice, w tied under two names."""
    values = tuple(Value(i, (4, 8), "float32", i) for i in range(6))
    nodes = (
        Node(0, "aten.relu.default", (Ref(0),), {}, (1,), "forward", "act", 0),
        Node(1, "aten.relu.default", (Ref(1),), {}, (2,), "forward", "act", 1),
        Node(2, "aten.threshold_backward.default", (Ref(3), Ref(2)), {}, (4,), "backward", "act", 1),
    )
    calls = (Call(0, "act", "ReLU", 0, -1, (0,), (1,), (4,)), Call(1, "act", "ReLU", 1, -1, (1,), (2,), (3,)))
    weight = Parameter("w", ("w", "v"), 5, Distribution("normal", {"mean": 0.0, "std": 0.5}, (4, 8)), "drawn", True)
    law = Distribution("normal", {"mean": 0.0, "std": 1.0}, (4, 8))
    return Record(nodes, values, calls, (weight,), (Input("", 0, law),), (Output("", 2, 3),))


def analysis() -> Analysis:
    summary = {
        1: Summary(0.4, 0.5, "exact"),
        2: Summary(0.4, math.inf, "rule"),
        3: Summary(0.0, 1.0, "exact"),
        4: Summary(math.nan, math.nan, "unknown", "no rule for aten.threshold_backward"),
    }
    return Analysis.build(shared_layer(), summary, ("a note",))


def test_a_module_behaves_like_its_first_call_and_lists_them_in_order():
    result = analysis().modules["act"]
    assert (result.rms, result.mean, result.claim, result.shape) == (math.sqrt(0.5), 0.4, "exact", (4, 8))
    assert [call.value for call in result.calls] == [1, 2]
    assert result[1].rms == math.inf
    assert result[1].grad_rms == 1.0
    assert result.grad_claim == "unknown"
    assert math.isnan(result.grad_rms)


def test_parameters_answer_to_every_name_and_say_when_no_gradient_arrives():
    parameters = analysis().parameters
    assert parameters["v"] is parameters["w"]
    assert parameters["w"].rms == 0.5
    assert parameters["w"].grad_claim == "none"


def test_an_unknown_name_raises_with_its_neighbours():
    with pytest.raises(KeyError, match="'act'"):
        analysis().modules["acts"]


def test_unknown_nodes_carry_their_reason_and_a_value_without_summary_counts():
    result = analysis()
    assert [(node.id, node.reason) for node in result.unknown] == [(2, "no rule for aten.threshold_backward")]
    bare = Analysis.build(shared_layer(), {})
    assert [node.id for node in bare.unknown] == [0, 1, 2]


def test_json_holds_no_bare_nan_or_infinity():
    def refuse(text):
        raise AssertionError(f"{text} in JSON")

    data = json.loads(analysis().to_json(), parse_constant=refuse)
    assert data["schema"] == "initio.analysis/1"
    assert set(data) >= {"modules", "parameters", "nodes", "unknown"}
    assert data["modules"]["act"]["calls"][1]["rms"] == "inf"
    assert data["modules"]["act"]["grad_rms"] is None
    assert data["parameters"]["w"]["names"] == ["w", "v"]
    assert json.loads(dumps({"x": -math.inf})) == {"x": "-inf"}


def test_the_text_names_modules_and_claims():
    text = str(analysis())
    assert "act" in text
    assert "1 unknown" in text


@pytest.mark.parametrize(
    "severity, fail_on, status",
    [
        ("error", "error", 1),
        ("warning", "error", 0),
        ("warning", "warning", 1),
        ("note", "warning", 0),
        ("note", "note", 1),
        ("error", "never", 0),
    ],
)
def test_exit_status(severity, fail_on, status):
    finding = Finding("SIG101", "vanishing-signal", severity, "said", "act")
    report = Report("model", (finding,), analysis())
    assert exit_status([report], fail_on) == status
    assert exit_status([report.select(ignore=["SIG"])], fail_on) == 0
    assert report.select(ignore=["SIG"]).ignored == 1
