import pytest
from torch import nn

import initio
from initio.api.live import Live
from initio.api.targets import Target, resolve
from initio.core.errors import InitioError
from initio.core.inputs import parse
from initio.render.payload import payload

SOURCE = """
from torch import nn


class Net(nn.Module):
    def __init__(self, width=16, rate=0.5, act="relu", bias=True, sizes=(1, 2)):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=bias)
        self.norm = nn.BatchNorm2d(width)
        self.act = nn.ReLU() if act == "relu" else nn.Tanh()
        self.again = self.act
        self.drop = nn.Dropout(rate)
        self.head = nn.Linear(width, 4)
        self.last = nn.LayerNorm(4)

    def forward(self, x):
        x = self.drop(self.again(self.norm(self.stem(x)).square() + self.act(x.mean(1, keepdim=True))))
        return self.last(self.head(x.mean((2, 3))))
"""
INPUT = "4x3x8x8"


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    file = tmp_path_factory.mktemp("live") / "live_target.py"
    file.write_text(SOURCE)
    return f"{file}:Net"


@pytest.fixture
def live(net):
    return Live(resolve(net), [parse(INPUT)])


def numbers(data):
    return [data["modules"], data["points"], data["parameters"], data["totals"]]


def test_without_changes_it_is_the_report(live, net):
    data = live.payload()
    plain = payload(initio.check(resolve(net).build, INPUT, target=net))
    assert numbers(data) == numbers(plain)
    assert data["findings"] == plain["findings"]
    assert set(data["live"]["arguments"]) == {"width", "rate", "act", "bias"}
    assert data["live"]["blocks"]["norm"] == {"norm": "BatchNorm2d", "last": "LayerNorm"}
    assert data["live"]["blocks"]["activation"] == {"act": "ReLU", "again": "ReLU"}


def test_sizes_and_arguments(live, net):
    build = resolve(net, {"width": 24, "rate": 0.1, "act": "tanh", "bias": False}).build
    changes = {"batch": 6, "sizes": {"0": [3, 10, 12]}, "arguments": {"width": 24, "rate": 0.1, "act": "tanh", "bias": False}}
    assert numbers(live.payload(changes)) == numbers(payload(initio.check(build, "6x3x10x12")))


def test_blocks(live, net):
    def build():
        model = resolve(net).build()
        model.act, model.again = nn.GELU(), nn.GELU()
        model.norm = nn.GroupNorm(16, 16)
        model.last = nn.RMSNorm(4)
        model.drop.p = 0.25
        nn.init.uniform_(model.head.weight, -0.75, 0.75)  # three times the 1/√16 of nn.Linear
        return model

    changes = {
        "act": {"activation": "GELU"}, "again": {"activation": "GELU"}, "norm": {"norm": "GroupNorm"}, "last": {"norm": "RMSNorm"},
        "": {"p": 0.25}, "head": {"gain": 3.0},
    }  # fmt: skip
    mine, own = payload(initio.check(build, INPUT)), live.payload({"modules": changes})
    assert own["points"] == mine["points"]
    assert own["parameters"]["grad"] == mine["parameters"]["grad"]
    at = own["modules"]["path"].index("act")
    assert own["modules"]["kind"][at].endswith("GELU")


def test_the_code_gives_the_same_numbers(live, net, monkeypatch, capsys):
    changes = {
        "batch": 6, "arguments": {"width": 24},
        "modules": {"": {"gain": 1.5, "activation": "SiLU", "p": 0.2}, "norm": {"norm": "InstanceNorm"}},
    }  # fmt: skip
    data = live.payload(changes)
    monkeypatch.syspath_prepend(net.rpartition("/")[0])
    space = {}
    exec(data["live"]["code"], space)
    assert capsys.readouterr().out.startswith("build")
    again = payload(initio.check(space["build"], ["6x3x8x8"]))
    assert [again[name] for name in ("points", "parameters", "totals")] == [data[name] for name in ("points", "parameters", "totals")]


def test_a_built_model_is_changed_as_a_copy():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    before = model[0].weight.clone()
    live = Live(Target("net:model", model), "4x8")
    plain, scaled = live.payload(), live.payload({"modules": {"0": {"gain": 2.0}}})
    assert scaled["parameters"]["rms"][0] == pytest.approx(2 * plain["parameters"]["rms"][0], rel=1e-4)
    assert (model[0].weight == before).all()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch": 0}, "sizes from 1"),
        ({"batch": True}, "sizes from 1"),
        ({"sizes": {"0": [3, 8]}}, "3 sizes"),
        ({"sizes": {"y": [3]}}, "one of 0"),
        ({"code": "import os"}, "one of batch"),
        ({"arguments": {"sizes": [1]}}, "one of width"),
        ({"arguments": {"width": "__import__('os')"}}, "kind int"),
        ({"arguments": {"rate": 1e999}}, "kind float"),
        ({"modules": {"act": {"activation": "Linear"}}}, "one of ReLU"),
        ({"modules": {"act": {"activation": ["ReLU"]}}}, "one of ReLU"),
        ({"modules": {"nowhere": {"gain": 2}}}, "one of"),
        ({"modules": {"head": {"forward": 2}}}, "one of gain"),
        ({"modules": {"last": {"norm": "BatchNorm"}}}, "LayerNorm"),
        ({"modules": {"drop": {"p": 1.5}}}, "from 0 to 1"),
        ({"modules": {"head": {"gain": float("nan")}}}, "number from 0"),
        ([], "an object"),
    ],
)
def test_what_is_not_offered_is_refused(live, changes, said):
    with pytest.raises(InitioError, match=said):
        live.payload(changes)


def test_inputs_by_name_and_kind():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(50, 8)

        def forward(self, ids, scale):
            return self.embed(ids) * scale

    live = Live(Target("named:Named", Named), {"ids": "2x5:int(50)", "scale": "2x5x8:uniform(0,1)"})
    data = live.payload({"batch": 3, "sizes": {"ids": [7], "scale": [7, 8]}})
    plain = initio.check(Named, {"ids": "3x7:int(50)", "scale": "3x7x8:uniform(0,1)"})
    assert numbers(data) == numbers(payload(plain))
    assert "['ids=3x7:int(0,50)', 'scale=3x7x8:uniform(0,1)']" in data["live"]["code"]
