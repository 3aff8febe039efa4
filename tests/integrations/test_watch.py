"""`watch` in loops as people write them."""

import random
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import initio
from initio.core.errors import InitioError
from initio.integrations.first_step import FindingsError, InitioWarning


def classifier(width=128):
    return nn.Sequential(nn.Linear(32, width), nn.Tanh(), nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 10))


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(100, 64)
        layers = [nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True, norm_first=True) for _ in range(2)]
        self.body = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(64)
        self.head = nn.Linear(64, 100)

    def forward(self, ids):
        return self.head(self.norm(self.body(self.embed(ids))))


def step(model, optimizer, x, y):
    loss = F.cross_entropy(model(x).flatten(0, -2), y.flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def hooks(model):
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds) + sum(
        len(p._backward_hooks or ()) for p in model.parameters()
    )


@pytest.mark.parametrize("seed", range(2))
def test_a_sound_loop_is_silent_and_each_tensor_lies_in_its_band(seed):
    torch.manual_seed(seed)
    for model, x, y in (
        (classifier(), torch.randn(64, 32), torch.randint(10, (64,))),
        (Tokens(), torch.randint(100, (8, 16)), torch.randint(100, (8, 16))),
    ):
        optimizer = torch.optim.Adam(model.parameters())
        with warnings.catch_warnings():
            warnings.simplefilter("error", InitioWarning)
            with initio.watch(model, loss="cross_entropy") as w:
                for _ in range(3):
                    step(model, optimizer, x, y)
        assert [f for f in w.report.findings if f.severity != "note"] == []
        assert w.outside == ()
        kinds = [each.kind for each in w.live]
        assert kinds.count("gradient") == len([p for p in model.parameters() if p.requires_grad])
        assert kinds.count("output") >= 6


def test_the_loop_trains_to_the_same_weights_with_and_without():
    ended = []
    for watched in (False, True):
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        model = nn.Sequential(nn.Linear(8, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 10))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        watch = initio.watch(model)
        if watched:
            watch.__enter__()
        for _ in range(3):
            step(model, optimizer, torch.randn(16, 8) + random.random() + np.random.rand(), torch.randint(10, (16,)))
        if watched:
            watch.__exit__(None, None, None)
            assert watch.report is not None
        ended.append((model.state_dict(), torch.get_rng_state(), random.random(), np.random.rand()))
    for name, value in ended[0][0].items():
        assert torch.equal(value, ended[1][0][name]), name
    assert torch.equal(ended[0][1], ended[1][1])
    assert ended[0][2:] == ended[1][2:]


def test_the_hooks_are_gone_at_the_first_optimizer_step():
    model = classifier()
    original = nn.Module.__call__
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with initio.watch(model) as w:
        assert hooks(model) > 0
        step(model, optimizer, torch.randn(64, 32), torch.randint(10, (64,)))
        assert hooks(model) == 0
        assert w.live
        assert nn.Module.__call__ is original


def test_a_finding_stops_the_loop_before_the_model_runs():
    class Planted(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = [nn.Linear(8, 8) for _ in range(2)]
            self.head = nn.Linear(8, 3)
            self.ran = 0

        def forward(self, x):
            for layer in self.layers:
                x = torch.relu(layer(x))
            return self.head(x)

    model = Planted()
    model.head.register_forward_hook(lambda *_: setattr(model, "ran", model.ran + 1))
    with pytest.raises(FindingsError, match="REG101") as caught, initio.watch(model):
        model(torch.randn(4, 8))
    assert "REG101" in [finding.code for finding in caught.value.report.findings]
    assert hooks(model) == 1
    with pytest.warns(InitioWarning, match="REG101"), initio.watch(model, fail_on="never"):
        model(torch.randn(4, 8))


def test_what_the_prediction_cannot_know_is_reported():
    """A gradient that a hook makes smaller."""
    torch.manual_seed(0)
    model = classifier()
    model[2].weight.register_hook(lambda g: 0.1 * g)
    with pytest.warns(InitioWarning, match=r"gradient of 2\.weight"), initio.watch(model) as w:
        step(model, torch.optim.SGD(model.parameters(), lr=0.1), torch.randn(64, 32), torch.randint(10, (64,)))
    assert [each.name for each in w.outside] == ["2.weight"]


def test_validation_before_training_is_let_through():
    model = classifier()
    with initio.watch(model) as w:
        with torch.no_grad():
            model.eval()(torch.randn(4, 32))
        assert w.report is None
        model.train()(torch.randn(64, 32))
    assert w.report.analysis.record.training
    assert hooks(model) == 0


def test_named_arguments_and_results_in_a_dict():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(16, 64), nn.Linear(64, 4)

        def forward(self, x, scale=1.0, *, mask=None):
            return {"logits": self.second(torch.tanh(scale * self.first(x)))}

    model = Named()
    with initio.watch(model) as w:
        model(torch.randn(32, 16), scale=2.0)["logits"].square().mean().backward()
    assert w.outside == ()
    assert {each.name for each in w.live} >= {"first", "second", "first.weight"}


def test_what_cannot_be_checked_is_said_and_the_loop_goes_on():
    class Worded(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x, how):
            return self.linear(x)

    model = Worded()
    with pytest.warns(InitioWarning, match="Worded was not checked: Expected tensors, numbers"), initio.watch(model) as w:
        model(torch.randn(2, 4), "so").sum().backward()
    assert w.report is None
    assert hooks(model) == 0


def test_bad_arguments():
    with pytest.raises(InitioError, match="one of error, warning, note, never"), initio.watch(classifier(), fail_on="all"):
        pass
    with pytest.raises(InitioError, match="a model that runs eagerly"):
        initio.watch(torch.compile(classifier()))
