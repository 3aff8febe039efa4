import itertools
import math

import pytest

from initio.core.depth import Course, depth_scale
from initio.core.errors import InitioError
from initio.core.grid import Grid, grid, parse


@pytest.mark.parametrize(
    "text, values, log",
    [
        ("depth=2:512:log", (2, 4, 8, 16, 32, 64, 128, 256, 512), True),
        ("depth=3:20:log", (3, 6, 12, 20), True),
        ("depth=2:6", (2, 3, 4, 5, 6), False),
        ("gain=0.5:2.5:3", (0.5, 1.5, 2.5), False),
        ("gain=1:2:3", (1.0, 1.5, 2.0), False),
        ("n=0:10:3", (0, 5, 10), False),
        ("act=relu,tanh", ("relu", "tanh"), False),
        ("shape=(1, 2),(3, 4)", ((1, 2), (3, 4)), False),
        ("act='a:b'", None, False),
        ("flag=True,False,None", (True, False, None), False),
        ("gain=1.25", (1.25,), False),
    ],
)
def test_texts(text, values, log):
    if values is None:
        with pytest.raises(InitioError, match="such as"):
            parse(text)
        return
    found = parse(text)
    assert found.values == values
    assert found.log == log
    assert [type(v) for v in found.values] == [type(v) for v in values]


def test_a_logarithmic_range_has_equal_ratios_and_exact_ends():
    values = parse("gain=0.1:10:log:5").values
    assert values[0] == 0.1
    assert values[-1] == 10
    assert [b / a for a, b in itertools.pairwise(values)] == pytest.approx([10**0.5] * 4)
    assert len(parse("gain=0.1:10:log").values) == 20 == len(parse("gain=0.5:3").values)


@pytest.mark.parametrize(
    "text", ["gain", "gain=", "=1,2", "2x=1", "gain=3:1", "gain=1:1", "gain=0:1:log", "gain=a:b", "gain=1:2:x", "gain=1:2:1", "gain=1:2:log:3:4",
             "gain=1,,2", "gain=1,1", "gain=nan:2", "gain=1:inf", "gain=1e999", "gain=1:2:-3"],
)  # fmt: skip
def test_malformed_texts(text):
    with pytest.raises(InitioError) as caught:
        parse(text)
    assert text in str(caught.value) or "1e999" in text


@pytest.mark.parametrize(
    "spec", [{}, [], {"gain": []}, {"gain": [object()]}, ["gain=1", "gain=2"], {"gain": [math.nan]}, {"not a name": [1]}]
)
def test_malformed_grids(spec):
    with pytest.raises(InitioError):
        grid(spec)


def test_cells_come_in_order_and_by_index():
    found = grid({"depth": (2, 4), "gain": "1:2:3", "act": ["relu"]})
    cells = list(found)
    assert len(found) == len(cells) == 6
    assert [found[i] for i in range(6)] == cells
    assert cells[1] == {"depth": 2, "gain": 1.5, "act": "relu"}
    assert list(Grid.of(found.to_dict())) == cells
    with pytest.raises(IndexError):
        found[6]


def test_integers_and_floats_as_the_factory_wants_them():
    found = grid({"depth": "2:64:log:8", "gain": "1:4"}, whole=["depth"], real=["gain"])
    depth, gain = found.dimensions
    assert depth.values == (2, 3, 5, 9, 14, 24, 39, 64)
    assert gain.values == (1.0, 2.0, 3.0, 4.0)
    assert all(type(v) is float for v in gain.values)


def test_depth_scales_of_known_courses():
    assert depth_scale([0.3 + 0.5 * math.exp(-k / 5) for k in range(40)]) == pytest.approx(5, rel=1e-6)
    assert depth_scale([0.8**k for k in range(40)]) == pytest.approx(-1 / math.log(0.8), rel=1e-9)
    assert depth_scale([1.5**k for k in range(40)]) == pytest.approx(1 / math.log(1.5), rel=1e-9)
    assert depth_scale([1e-200 * 0.5**k for k in range(40)]) == pytest.approx(1 / math.log(2), rel=1e-9)
    assert depth_scale([2.0] * 10) == math.inf
    assert math.isnan(depth_scale([1.0, 2.0]))
    assert math.isnan(depth_scale([]))


def test_quantities_of_a_geometric_course():
    n = 21
    found = Course([4.0 * 0.25**k for k in range(n)], [0.25**k for k in range(n)], [9.0 ** (n - k) for k in range(n)]).quantities()
    assert found["forward_growth"] == pytest.approx(0.5)
    assert found["gradient_growth"] == pytest.approx(3.0)
    assert found["chi"] == pytest.approx(9.0)
    assert found["xi_gradient"] == pytest.approx(1 / math.log(9))
    assert found["correlation"] == pytest.approx(0.75)
    assert found["layers"] == n
    nothing = Course([], [], []).quantities()
    assert nothing["layers"] == 0
    assert all(math.isnan(value) for name, value in nothing.items() if name != "layers")


def test_huge_growth_is_infinite_and_no_error():
    found = Course([1e-300, 1e300], [0.0, 0.0], [1e308, 1e-308]).quantities()
    assert found["signal"] == pytest.approx(1e300)
    assert found["gradient"] == pytest.approx(1e308)
