import json
import math
import re

import pytest

import initio
from families import brittle, mlp
from initio.core.errors import InitioError
from initio.render.maps import DIVERGING, SEQUENTIAL, page

EVIL = "</script><script>alert('x')</script>\u2028&<b>"


@pytest.fixture(scope="module")
def found():
    grid = {"depth": (2, 5), "gain": (0.5, 1.0, 2.0)}
    return initio.sweep(mlp, grid, (4, 32), workers=0, findings=False)


def data(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


def test_the_page_holds_every_cell_in_order(found):
    shown = data(page(found))
    assert [d["name"] for d in shown["dimensions"]] == ["depth", "gain"]
    assert shown["quantities"]["chi"] == pytest.approx(found.values("chi"), rel=1e-4)
    assert shown["failed"] == [""] * 6
    assert set(shown["scales"].values()) <= {"one", "log", "linear"}


def test_unknown_infinite_failed_and_missing_cells():
    swept = initio.sweep(brittle, {"gain": (1.0, 3.0)}, (4, 32), workers=0, findings=False)
    missing = initio.core.sweeps.Sweep(swept.target, swept.grid, swept.cells[1:], swept.about)
    shown = data(page(missing))
    assert shown["failed"][0] is None
    assert "no model" in shown["failed"][1]
    assert "chi" not in shown["quantities"]
    relu = initio.sweep(mlp, {"depth": (2, 8)}, (4, 32), fixed={"act": "relu", "gain": 2**0.5, "bias": 0.0}, workers=0, findings=False)
    assert data(page(relu))["quantities"]["xi_signal"] == [None, "inf"]


def test_nothing_from_the_user_is_markup(found):
    about = {"inputs": EVIL}
    text = page(initio.core.sweeps.Sweep(EVIL, found.grid, found.cells, about, (EVIL,)))
    assert text.count("<script") == 2
    assert "alert('x')</script>" not in text
    assert data(text)["target"] == EVIL
    assert data(text)["remarks"] == [EVIL]


def lightness(colour):
    red, green, blue = (int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5))
    return 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2


def test_colours_tell_the_order_by_lightness_alone():
    values = [lightness(colour) for colour in SEQUENTIAL]
    assert values == sorted(values)
    middle = len(DIVERGING) // 2
    values = [lightness(colour) for colour in DIVERGING]
    assert values[: middle + 1] == sorted(values[: middle + 1])
    assert values[middle:] == sorted(values[middle:], reverse=True)


def test_static_plots(found):
    matplotlib = pytest.importorskip("matplotlib", reason="static plots need initio[plot]")
    matplotlib.use("Agg")
    axes = found.plot("gradient_growth")
    mesh = axes.collections[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("depth", "gain")
    assert mesh.get_array().shape == (3, 2)
    assert mesh.get_array()[2][1] == found.values("gradient_growth")[5]
    assert mesh.norm.vmin * mesh.norm.vmax == pytest.approx(1)
    line = found.plot("chi", where={"depth": 5})
    assert list(line.lines[0].get_ydata()) == found.values("chi")[3:]
    unknown = found.plot("xi_signal").collections[0].get_array()
    assert math.isnan(float(unknown.filled(math.nan)[0][0]))
    for wrong in ({"quantity": "bogus"}, {"where": {"width": 3}}, {"where": {"depth": 99}}):
        with pytest.raises(InitioError):
            found.plot(**wrong)
