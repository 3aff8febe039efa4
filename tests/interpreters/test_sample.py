"""`measure` against closed forms and against its own contract."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from initio.core.distribution import Distribution
from initio.core.errors import InitioError
from initio.core.inputs import InputSpec
from initio.interpreters.draws import draw_input
from initio.interpreters.sample import measure

NORMAL = Distribution("normal", {"mean": 0.0, "std": 1.0})


def spec(*shape: int, name: str = "") -> InputSpec:
    return InputSpec(shape, "float32", NORMAL, name)


def close(estimate, value, errors=5.0):
    assert abs(estimate.second - value) <= errors * estimate.error
    assert estimate.error < 0.05 * value


def test_linear_stack_has_its_closed_form():
    n = 64
    m = measure(lambda: nn.Sequential(*(nn.Linear(n, n) for _ in range(3))), [spec(256, n)], draws=16)
    q = 1.0
    for layer in range(3):
        q = (q + 1 / n) / 3
        close(m.outputs[f"{layer}", 0, 0], q)
    close(m.cotangents["2", 0, 0], 1.0)
    close(m.cotangents["0", 0, 0], 1 / 9)
    close(m.gradients["2.bias"], 256)
    assert m.draws == 16
    assert m.gradients["0.weight"].shape == (n, n)
    assert m.unreached == ()


def test_inputs_and_cotangents_are_fresh_in_every_draw_of_a_built_module():
    layer = nn.Linear(8, 8)
    layer.weight.grad = torch.ones(8, 8)
    before = {k: v.clone() for k, v in layer.state_dict().items()}
    m = measure(layer, [spec(16, 8)], draws=3)
    assert len(set(m.outputs["", 0, 0].each)) == 3
    assert len(set(m.cotangents["", 0, 0].each)) == 3
    assert m.weights["weight"].error == 0
    assert torch.equal(layer.weight.grad, torch.ones(8, 8))
    assert not layer._forward_hooks
    assert all(torch.equal(before[k], v) for k, v in layer.state_dict().items())


def test_in_place_operations_do_not_reach_the_output_before_them():
    def build():
        return nn.Sequential(nn.BatchNorm1d(32, affine=False), nn.ReLU(inplace=True), nn.Linear(32, 32))

    m = measure(build, [spec(128, 32)], draws=4)
    assert m.outputs["0", 0, 0].second == pytest.approx(1, abs=1e-4)
    assert m.outputs["0", 0, 0].mean == pytest.approx(0, abs=1e-6)
    assert m.outputs["1", 0, 0].second == pytest.approx(0.5, rel=0.02)
    # The mask halves the cotangent's second moment between the activation and the norm.
    assert m.cotangents["0", 0, 0].second / m.cotangents["1", 0, 0].second == pytest.approx(0.5, rel=0.03)


def test_calls_of_a_shared_module_and_several_outputs_are_numbered():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.shared = nn.Linear(4, 4)

        def forward(self, x, scale):
            y = self.shared(self.shared(x)) * scale
            return {"y": y, "ids": torch.arange(3), "pair": (y + 1, None)}

    m = measure(Twice, {"x": spec(5, 4), "scale": spec(5, 1)}, draws=2)
    assert set(m.outputs) == {("shared", 0, 0), ("shared", 1, 0), ("", 0, 0), ("", 0, 1)}
    assert set(m.inputs) == {"x", "scale"}


def test_a_checkpointed_block_is_counted_once():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x):
            return torch.utils.checkpoint.checkpoint(self.inner, x, use_reentrant=False)

    m = measure(Block, [spec(5, 4)], draws=1)
    assert set(m.outputs) == {("inner", 0, 0), ("", 0, 0)}
    assert "inner.weight" in m.gradients
    assert math.isnan(m.gradients["inner.weight"].error)


def test_modules_in_plain_lists_and_modules_made_on_the_way_are_measured():
    class Loose(nn.Module):
        def __init__(self):
            super().__init__()
            self.paths = [nn.Linear(4, 4), nn.Linear(4, 4)]
            self.tied = nn.Linear(4, 4)
            self.tied.bias = self.paths[0].bias

        def forward(self, x):
            return self.tied(nn.ReLU()(self.paths[0](x) + self.paths[1](x)))

    original = nn.Module.__call__
    m = measure(Loose, "5x4", draws=2)
    assert set(m.outputs) == {("paths[0]", 0, 0), ("paths[1]", 0, 0), ("~ReLU", 0, 0), ("tied", 0, 0), ("", 0, 0)}
    assert list(m.gradients) == ["tied.weight", "tied.bias", "paths[0].weight", "paths[1].weight", "paths[1].bias"]
    assert nn.Module.__call__ is original


def test_a_parameter_without_a_gradient_is_named():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.spare = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.used(x)

    m = measure(Unused, [spec(5, 4)], draws=2)
    assert m.unreached == ("spare.weight", "spare.bias")


def test_a_model_without_parameters_or_gradients():
    class Count(nn.Module):
        def forward(self, ids):
            return (ids > 1).float()

    m = measure(Count, [InputSpec((64,), "int64", Distribution("integers", {"low": 0, "high": 4}))], draws=4)
    assert not m.gradients
    assert not m.cotangents
    assert 0.2 < m.outputs["", 0, 0].mean < 0.8


def test_an_input_may_be_written_in_place_and_has_a_gradient():
    m = measure(lambda: nn.ReLU(inplace=True), [spec(4000)], draws=4)
    assert m.inputs["0"].second == pytest.approx(0.5, rel=0.1)


def test_eval_mode_switches_dropout_off():
    trained = measure(lambda: nn.Dropout(0.5), [spec(50_000)], draws=2)
    evaluated = measure(lambda: nn.Dropout(0.5), [spec(50_000)], draws=2, train=False)
    assert trained.outputs["", 0, 0].second == pytest.approx(2, rel=0.05)
    assert evaluated.outputs["", 0, 0].second == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize(
    ("loss", "second"),
    # Zero logits: softmax − one-hot has (1/9)² nine tenths … of 10 classes; bce ±1/2; mse 2·target.
    [("cross_entropy", (0.9**2 + 9 * 0.1**2) / 10 / 32**2), ("bce_with_logits", 0.25 / 320**2), ("mse", 4 / 320**2)],
)
def test_losses_start_the_backward_pass(loss, second):
    def build():
        layer = nn.Linear(4, 10)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        return layer

    m = measure(build, [spec(32, 4)], draws=16, loss=loss)
    assert m.cotangents["", 0, 0].second == pytest.approx(second, rel=0.1)


def test_the_models_own_loss_and_a_function():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            y = self.layer(x)
            return {"loss": y.mean(), "logits": y}

    own = measure(Own, [spec(5, 4)], draws=2, loss="model")
    function = measure(Own, [spec(5, 4)], draws=2, loss=lambda result: result["logits"].sum())
    assert own.cotangents["layer", 0, 0].second == pytest.approx(1 / 400)
    assert function.cotangents["layer", 0, 0].second == pytest.approx(1)


def test_the_global_random_state_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    measure(lambda: nn.Linear(2, 2), [spec(3, 2)], draws=2)
    assert torch.equal(torch.rand(3), expected)


def test_the_same_seed_gives_the_same_numbers():
    one, two, other = (measure(lambda: nn.Linear(4, 4), [spec(3, 4)], draws=2, seed=s) for s in (0, 0, 1))
    assert one.gradients == two.gradients
    assert one.gradients != other.gradients


def test_an_interruption_keeps_the_finished_draws():
    built = []

    def build():
        built.append(1)
        if len(built) == 3:
            raise KeyboardInterrupt
        return nn.Linear(4, 4)

    m = measure(build, [spec(3, 4)], draws=8)
    assert (m.draws, m.interrupted) == (2, True)
    assert m.outputs["", 0, 0].draws == 2
    with pytest.raises(KeyboardInterrupt):
        measure(lambda: exec("raise KeyboardInterrupt"), [spec(3, 4)], draws=2)


def test_float64_shows_what_float32_loses():
    def build():
        layer = nn.Linear(4, 4, bias=False)
        nn.init.constant_(layer.weight, 1e-20)
        return nn.Sequential(layer, nn.Linear(4, 4, bias=False), layer, layer)

    key = ("0", 2, 0)
    assert measure(build, [spec(3, 4)], draws=1).outputs[key].second == 0
    assert 0 < measure(build, [spec(3, 4)], draws=1, dtype=torch.float64).outputs[key].rms < 1e-50


def test_bad_calls_say_what_came_and_the_remedy():
    with pytest.raises(InitioError, match="it returned int"):
        measure(lambda: 3, [spec(3, 4)])
    with pytest.raises(InitioError, match="weight is on the meta device"):
        measure(lambda: nn.Linear(2, 2, device="meta"), [spec(3, 2)])
    with pytest.raises(InitioError, match="at least one draw, but 0 came"):
        measure(lambda: nn.Linear(2, 2), [spec(3, 2)], draws=0)
    with pytest.raises(InitioError, match="but 'hinge' came"):
        measure(lambda: nn.Linear(2, 2), [spec(3, 2)], draws=1, loss="hinge")
    with pytest.raises(InitioError, match="a scalar tensor from the loss function, but it returned \\(3, 2\\)"):
        measure(lambda: nn.Linear(2, 2), [spec(3, 2)], draws=1, loss=lambda y: y)
    with pytest.raises(InitioError, match="returns its loss as a scalar"):
        measure(lambda: nn.Linear(2, 2), [spec(3, 2)], draws=1, loss="model")
    with pytest.raises(InitioError, match="'orthogonal' came"):
        draw_input(InputSpec((2, 2), "float32", Distribution("orthogonal", {"gain": 1.0}, (2, 2))))


def test_shapes_texts_and_nested_arguments_are_inputs():
    class Sum(nn.Module):
        def forward(self, pair, scale, ids):
            return pair[0] + pair[1] * scale + ids.float().mean()

    m = measure(Sum, {"pair": ((4, 2), "4x2"), "scale": 2.0, "ids": "8:int(5)"}, draws=2)
    assert m.outputs["", 0, 0].shape == (4, 2)
    assert set(m.inputs) == {"0", "1"}
    assert measure(nn.Linear(3, 2), "4x3", draws=1).outputs["", 0, 0].shape == (4, 2)


def test_a_model_that_asks_for_its_inputs_gradient_itself():
    class Asks(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x):
            y = x[:, None]
            y.requires_grad = True
            return self.layer(y)

    m = measure(Asks, "4x3", draws=2)
    assert m.cotangents["layer", 0, 0].shape == (4, 1, 3)


@pytest.mark.parametrize(
    "distribution",
    [
        NORMAL,
        Distribution("uniform", {"low": -1.0, "high": 3.0}),
        Distribution("truncated_normal", {"mean": 0.5, "std": 2.0, "low": -1.0, "high": 1.0}),
        Distribution("integers", {"low": 2, "high": 7}),
        Distribution("bernoulli", {"p": 0.3}),
        Distribution("constant", {"value": 2.5}),
    ],
    ids=lambda d: d.family,
)
def test_inputs_follow_their_distribution(distribution):
    torch.manual_seed(0)
    x = draw_input(InputSpec((40_000,), "float32", distribution)).double()
    assert x.mean().item() == pytest.approx(distribution.mean, abs=5 * distribution.std / 200 + 1e-9)
    assert x.square().mean().item() == pytest.approx(distribution.second, rel=0.03)


def test_a_handed_in_tensor_is_used_as_it_is():
    data = torch.arange(6.0).reshape(2, 3)
    m = measure(nn.Identity(), [InputSpec((2, 3), "float32", Distribution("values", {"mean": 2.5, "std": 1.7}), data=data)], draws=2)
    assert m.outputs["", 0, 0].second == pytest.approx(data.square().mean().item())
    assert m.outputs["", 0, 0].error == 0


def test_cotangents_have_mean_square_one_and_gradients_the_variance_of_their_input() -> None:
    """y = W x with 2×2 outputs: every gradient entry is Σₙ cₙ xₙ over 2 samples, of second moment 2, whatever the draws' radii would be."""
    found = measure(lambda: nn.Linear(256, 2, bias=False), [spec(2, 256)], draws=400)
    root = found.cotangents["", 0, 0]
    assert root.each == pytest.approx([1.0] * 400, rel=1e-6)
    weight = found.gradients["weight"]
    assert abs(weight.second - 2) < 4 * weight.error
    # The radius alone would leave a relative standard deviation of √(2/4) to each draw; the 512 products leave about √(2/256).
    assert weight.spread < 0.2


def test_several_outputs_each_have_mean_square_one() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.linear(x), x.sum(-1)

    found = measure(Two, [spec(4, 8)], draws=3)
    assert found.cotangents["", 0, 0].each == pytest.approx([1.0] * 3, rel=1e-6)
    assert found.cotangents["", 0, 1].each == pytest.approx([1.0] * 3, rel=1e-6)


def test_an_output_of_zeros_still_gets_a_cotangent() -> None:
    """The radius is the cotangent's, not the output's."""
    found = measure(lambda: nn.Threshold(1e9, 0.0), [spec(2, 2)], draws=2)
    assert found.cotangents["", 0, 0].second == pytest.approx(1.0, rel=1e-6)
    assert found.inputs["0"].second == 0.0
