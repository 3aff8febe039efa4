"""Training and evaluation mode side by side: moments, ratio, cause."""

import json
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import initio
from initio.core.errors import InitioError

BATCH = 64


class Noise(nn.Module):
    def forward(self, x):
        return x + 0.5 * torch.randn_like(x) if self.training else x


class Sometimes(nn.Module):
    """Another way in training, without randomness."""

    def forward(self, x):
        return 2 * x if self.training else torch.relu(x)


def stack(*layers):
    return lambda: nn.Sequential(nn.Linear(32, 32), *layers, nn.Linear(32, 8))


@pytest.mark.parametrize(
    "layer, ratio, kind, said",
    [
        (lambda: nn.Dropout(0.2), 1.25, "dropout's noise", "p = 0.2"),
        (lambda: Noise(), None, "noise", "randn_like"),
        (lambda: nn.RReLU(0.1, 0.5), (1 + (0.01 + 0.05 + 0.25) / 3) / (1 + 0.09), "random slopes", "U(0.1, 0.5)"),
        (lambda: Sometimes(), 8.0, "code of Sometimes", "another way"),
    ],
)
def test_where_the_modes_part_and_by_what(layer, ratio, kind, said):
    found = initio.train_eval(lambda: stack(layer())(), f"{BATCH}x32")
    assert found["0"].parts is False
    row = found["1"]
    assert found.first is row
    assert row.parts
    assert [cause.kind for cause in row.own] == [kind]
    assert said in row.why
    if ratio is not None:
        assert row.ratio == pytest.approx(ratio, rel=1e-6)
    after = found["2"]
    assert after.own == ()
    assert after.above == row.own
    assert after.why == f"from {kind} in 1"


def test_moments_are_those_of_the_running_model():
    def build():
        return nn.Sequential(nn.Linear(32, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 16))

    found = initio.train_eval(build, f"{BATCH}x32")
    assert found["1"].own[0].kind == "batch statistics"
    assert "mean 0, variance 1" in found["1"].why
    seconds = {mode: {str(i): [] for i in range(5)} for mode in (True, False)}
    for seed in range(60):
        torch.manual_seed(seed)
        model = build()
        for mode in (True, False):
            x = torch.randn(BATCH, 32)
            model.train(mode)
            with torch.no_grad():
                if mode is False:  # as initialised: the running statistics of a model that was never trained
                    model[1].reset_running_stats()
                for i, layer in enumerate(model):
                    x = layer(x)
                    seconds[mode][str(i)].append(float(x.square().mean()))
    for path in "01234":
        for mode, side in ((True, found[path].train), (False, found[path].eval)):
            values = torch.tensor(seconds[mode][path])
            assert side.second == pytest.approx(float(values.mean()), abs=5 * float(values.std()) / math.sqrt(60) + 1e-4)


class Residual(nn.Module):
    """Stochastic depth as it is written by hand: one factor for each sample."""

    class DropPath(nn.Module):
        def forward(self, x):
            if not self.training:
                return x
            return x * x.new_empty((x.shape[0], 1)).bernoulli_(0.8) / 0.8

    def __init__(self):
        super().__init__()
        self.inner, self.path = nn.Linear(32, 32), self.DropPath()

    def forward(self, x):
        return x + self.path(self.inner(x))


def test_stochastic_depth():
    found = initio.train_eval(Residual, f"{BATCH}x32")
    row = found["path"]
    assert row.own[0].kind == "stochastic depth"
    assert "0.8" in row.why
    assert row.ratio == pytest.approx(1.25, rel=1e-6)
    assert found[""].why == "from stochastic depth in path"


def test_dropout_of_attention_weights():
    found = initio.train_eval(lambda: nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True), "2x5x16")
    assert "attention weights, p = 0.1" in found["self_attn"].why


def test_a_model_without_modes():
    found = initio.train_eval(lambda: nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.0), nn.LayerNorm(8)), "4x8")
    assert found.parting == ()
    assert found.causes == ()
    assert found.first is None
    assert all(row.ratio == 1 and row.shift == 0 for row in found)


def test_noise_of_both_modes_parts_nothing():
    class Always(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(16, 16)

        def forward(self, x):
            return F.dropout(self.a(x), 0.5, training=True)

    assert initio.train_eval(Always, "4x16").causes == ()


def test_modules_of_one_mode_only():
    class Auxiliary(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            y = self.a(x)
            return y + self.b(x) if self.training else y

    found = initio.train_eval(Auxiliary, "4x8")
    assert found.only == {"train": ("b",), "eval": ()}
    assert found[""].parts
    assert "another way" in found[""].why


def test_command_line(capsys, tmp_path):
    from initio.cli import status

    model = tmp_path / "net.py"
    model.write_text("from torch import nn\n\ndef net():\n    return nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5), nn.Linear(6, 6))\n")
    assert status(["show", f"{model}:net", "-i", "4x6", "--train-eval"]) == 0
    out = capsys.readouterr().out
    assert "dropout of single entries, p = 0.5" in out
    assert "2 of 4" not in out
    assert status(["show", f"{model}:net", "-i", "4x6", "--train-eval", "-f", "json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["schema"] == "initio.train-eval/1"
    assert data["first"] == "1"
    assert [row["ratio"] for row in data["modules"] if row["path"] == "1"] == [pytest.approx(2.0)]
    assert status(["show", f"{model}:net", "-i", "4x6", "--train-eval", "--eval"]) == 2
    assert "--train-eval by itself" in capsys.readouterr().err


def test_a_model_that_crashes_in_one_mode():
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(8, 8)

        def forward(self, x):
            return self.a(x) if self.training else self.a(x.flatten())

    with pytest.raises(InitioError):
        initio.train_eval(Broken, "4x8")
