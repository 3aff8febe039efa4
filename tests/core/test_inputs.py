import math

import numpy as np
import pytest

from initio.core.errors import InitioError
from initio.core.inputs import InputSpec, normalise, parse


@pytest.mark.parametrize(
    "text, shape, dtype, family, parameters, name",
    [
        ("8x3x224x224", (8, 3, 224, 224), "float32", "normal", {"mean": 0, "std": 1}, ""),
        ("2x128:int(50257)", (2, 128), "int64", "integers", {"low": 0, "high": 50257}, ""),
        ("input_ids=2x128:int(5,9):int32", (2, 128), "int32", "integers", {"low": 5, "high": 9}, "input_ids"),
        ("2x16:bool", (2, 16), "bool", "bernoulli", {"p": 0.5}, ""),
        ("mask=2x16:bool(0.9)", (2, 16), "bool", "bernoulli", {"p": 0.9}, "mask"),
        ("4x8:float16", (4, 8), "float16", "normal", {"mean": 0, "std": 1}, ""),
        ("4:uniform(-1,1):float64", (4,), "float64", "uniform", {"low": -1, "high": 1}, ""),
        ("4x8:normal(1,2)", (4, 8), "float32", "normal", {"mean": 1, "std": 2}, ""),
        ("4x8:constant(3)", (4, 8), "float32", "constant", {"value": 3}, ""),
    ],
)
def test_texts(text, shape, dtype, family, parameters, name):
    spec = parse(text)
    assert (spec.shape, spec.dtype, spec.name) == (shape, dtype, name)
    assert (spec.distribution.family, dict(spec.distribution.parameters)) == (family, parameters)
    assert spec.distribution.shape == shape


@pytest.mark.parametrize(
    "text",
    [
     "", "8x", "8x3y", "axb", "8:int", "8:int(0)", "8:int(x)", "8:int(1.5)", "8:foo", "8:bool(2)", "8:normal(0,-1)",
     "8:int64", "8:normal(0,1):int64",
     "8:bool:bool", "1a=8", "8x0x3", "8:uniform(1,1)"],
)  # fmt: skip
def test_malformed_texts_name_what_came_and_the_forms(text):
    with pytest.raises(InitioError) as caught:
        parse(text)
    assert "Expected" in str(caught.value)
    assert caught.value.remedy


def test_python_inputs():
    args, kwargs = normalise((8, 3))
    assert [spec.shape for spec in args] == [(8, 3)]
    assert kwargs == {}
    args, kwargs = normalise(["2x4", (3, 5), np.ones((2, 2), "float32")])
    assert [spec.shape for spec in args] == [(2, 4), (3, 5), (2, 2)]
    assert args[2].data is not None
    assert args[2].distribution.mean == 1
    args, kwargs = normalise({"ids": "2x8:int(10)", "use_cache": False, "more": [(2, 3), (2, 4)]})
    assert kwargs["ids"].name == "ids"
    assert kwargs["use_cache"] is False
    assert [spec.shape for spec in kwargs["more"]] == [(2, 3), (2, 4)]
    args, kwargs = normalise(["2x4", "y=3x5"])
    assert len(args) == 1
    assert list(kwargs) == ["y"]


def test_tensors_are_described_by_their_values():
    values = np.array([[1.0, 3.0], [5.0, 7.0]])
    (spec,), _ = normalise(values)
    assert isinstance(spec, InputSpec)
    assert math.isclose(spec.distribution.mean, 4.0)
    assert math.isclose(spec.distribution.second, (values**2).mean())


@pytest.mark.parametrize(
    "inputs, said",
    [
        ((8, 0, 3), "empty"),
        ((), "0-dimensional"),
        (np.array([1.0, np.nan]), "NaN"),
        (np.float32(3.0), "0-dimensional"),
        (object(), "object"),
        ([None], "None"),
        (["x=2x3", "x=2x3"], "twice"),
    ],
)
def test_senseless_inputs_are_refused_by_name(inputs, said):
    with pytest.raises(InitioError, match=said):
        normalise(inputs)
