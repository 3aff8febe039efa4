import pytest
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


def test_errors_name_the_remedy(analysis):
    with pytest.raises(InitioError, match="float16"):
        analysis.plot.signal(new(), limits=["int8"])
    plain = initio.analyze(lambda: nn.Linear(4, 4), "8x4")
    with pytest.raises(InitioError, match="read once"):
        plain.plot.paths(new())
