import pytest
import torch
from torch import nn

import initio
from initio.core.errors import InitioError

matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'initio[plot]'")
matplotlib.use("Agg")


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))

    def forward(self, x):
        for layer in self.layers:
            x = x + layer(x)
        return x


@pytest.fixture(scope="module")
def analysis():
    return initio.analyze(Residual, "8x16")


def new():
    from matplotlib.figure import Figure

    return Figure().subplots()


def test_lines_are_the_predictions(analysis):
    ax = new()
    assert analysis.plot.signal(ax, limits=["float16"]) is ax
    layers = [analysis.modules[f"layers.{i}"] for i in range(3)]
    assert list(ax.lines[0].get_ydata()) == pytest.approx([layer.rms for layer in layers])
    assert [line.get_ydata()[0] for line in ax.lines[1:]] == [2.0**-14, 65504.0]
    assert ax.get_yscale() == "log"
    ax = analysis.plot.gradient(new())
    assert list(ax.lines[0].get_ydata()) == pytest.approx([layer.grad_rms for layer in layers])


def test_paths_add_up(analysis):
    ax = analysis.plot.paths(new())
    widths = [bar.get_width() for bar in ax.patches]
    assert widths[:3] == pytest.approx([fork.skip_share for fork in analysis.paths])
    assert [a + b for a, b in zip(widths[:3], widths[3:], strict=True)] == pytest.approx([1.0] * 3)


def layers():
    square, tall = nn.Linear(200, 200), nn.Linear(200, 600)
    turned = nn.init.orthogonal_(nn.Linear(600, 300).weight, gain=1.5)
    convolution, zero = nn.Conv2d(30, 100, 3), nn.Linear(300, 4)
    nn.init.trunc_normal_(convolution.weight, std=0.05)
    nn.init.zeros_(zero.weight)
    model = nn.Module()
    model.layers = nn.ModuleList([square, tall, nn.Linear(600, 300), zero])
    model.layers[2].weight = nn.Parameter(turned)
    model.convolution = convolution
    model.forward = lambda x: zero(model.layers[2](tall(square(x)))) + convolution(x.new_ones(1, 30, 3, 3)).sum()
    return model


def test_singular_values_are_those_of_a_draw():
    analysis = initio.analyze(layers, "8x200")
    ax = analysis.plot.spectrum(new())
    ranges, halves = ([line[:, 1] for line in found.get_segments()] for found in ax.collections)
    (rms,) = (line.get_ydata() for line in ax.lines)
    assert "1 without a law" in ax.get_xlabel()
    torch.manual_seed(0)
    model = layers()
    weights = [model.layers[0].weight, model.layers[1].weight, model.layers[2].weight, model.convolution.weight]
    for weight, (low, high), (first, third), scale in zip(weights, ranges, halves, rms, strict=True):
        found = torch.linalg.svdvals(weight.detach().flatten(1))
        assert found.square().mean().sqrt().item() == pytest.approx(scale, rel=0.01)
        assert found.max().item() == pytest.approx(high, rel=0.03)
        assert found.min().item() == pytest.approx(low, rel=0.03, abs=0.02 * scale)
        assert torch.quantile(found, torch.tensor([0.25, 0.75])).tolist() == pytest.approx([first, third], rel=0.02)


def test_errors_name_the_remedy(analysis):
    with pytest.raises(InitioError, match="float16"):
        analysis.plot.signal(new(), limits=["int8"])
    plain = initio.analyze(lambda: nn.Linear(4, 4), "8x4")
    with pytest.raises(InitioError, match="read once"):
        plain.plot.paths(new())
    with pytest.raises(InitioError, match="factory"):
        initio.analyze(nn.Linear(4, 4), "8x4").plot.spectrum(new())
