"""Single replacements in a draft: where an argument is put, and how names of torch are written."""

import libcst as cst
import pytest

from initio.core.errors import InitioError
from initio.rewrite.source.draft import Draft, with_argument

ARGUMENTS = {
    "f()": "f(bias=False)",
    "f(1)": "f(1, bias=False)",
    "f(1, 2,)": "f(1, 2, bias=False,)",
    "f(1, bias=True)": "f(1, bias=False)",
    "f(1, bias=True, k=2)": "f(1, bias=False, k=2)",
    "f(*a, **k)": "f(*a, **k, bias=False)",
    "f(\n    1,\n    2,\n)": "f(\n    1,\n    2,\n    bias=False,\n)",
    "f(\n    1,\n    2\n)": "f(\n    1,\n    2,\n    bias=False\n)",
    "f(\n    1,\n)": "f(\n    1,\n    bias=False,\n)",
    "f(\n    1,  # one\n    2,  # two\n)": "f(\n    1,  # one\n    2,  # two\n    bias=False,\n)",
    "f(1,\n  2)": "f(1,\n  2,\n  bias=False)",
}


@pytest.mark.parametrize("before, after", ARGUMENTS.items())
def test_an_argument_is_put_last_in_the_style_of_the_call(before, after):
    draft = Draft("f.py", before.encode())
    (call,) = draft.all(cst.Call)
    draft.replace(call, lambda node: with_argument(node, "bias", cst.Name("False")))
    assert draft.result().decode() == after


@pytest.mark.parametrize(
    "imports, layer, function",
    [
        ("from torch import nn", "nn.ModuleList", "F.relu"),
        ("import torch", "torch.nn.ModuleList", "F.relu"),
        ("import torch.nn as layers", "layers.ModuleList", "F.relu"),
        ("import torch.nn.functional as fun", "nn.ModuleList", "fun.relu"),
        ("from torch.nn import Linear", "nn.ModuleList", "F.relu"),
        ("F = 3\nfrom torch import nn", "nn.ModuleList", "nn.functional.relu"),
    ],
)
def test_names_are_written_as_the_file_imports_them(imports, layer, function):
    draft = Draft("f.py", f"{imports}\n\nx = 1\ny = 2\n".encode())
    x, y = [node.value for node in draft.all(cst.Assign) if node.value.value in ("1", "2")]
    draft.replace(x, lambda _: draft.layers("ModuleList"))
    draft.replace(y, lambda _: draft.functional("relu"))
    text = draft.result().decode()
    assert f"x = {layer}\ny = {function}\n" in text
    compile(text, "f.py", "exec")
    needed = {"nn": "from torch import nn", "F": "import torch.nn.functional as F"}
    for name, line in needed.items():
        used = layer.startswith(f"{name}.") or function.startswith(f"{name}.")
        assert (line in text) == (used or line in imports)


def test_nothing_changes_without_a_replacement():
    data = b"\xef\xbb\xbfx=1 ;y  =2\r\n\r\n#end"
    assert Draft("f.py", data).result() == data


def test_source_that_is_none_is_an_error():
    with pytest.raises(InitioError, match="Python source"):
        Draft("f.py", b"def (:\n")
