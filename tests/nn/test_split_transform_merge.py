"""SplitTransformMerge against the literal loop over its paths: the same function, the same gradients, from one state dict."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from initio.nn import GroupedPaths, PathLoop, SplitTransformMerge, per_path
from initio.nn.kernels import build, cpu

AFTER = ("path", "sum", None)
kernel = pytest.mark.skipif(not build.available(True), reason="no C compiler here")


@pytest.fixture(params=["kernel", "torch"])
def route(request, monkeypatch):
    """Both implementations behind the operator: the compiled kernel, and plain torch as on a machine without a compiler."""
    if request.param == "torch":
        monkeypatch.setattr(build, "available", lambda double: False)
    elif not build.available(True):
        pytest.skip("no C compiler here")
    return request.param


def gradients(model, x, dy):
    x = x.detach().requires_grad_()
    y = model(x)
    return y, torch.autograd.grad(y, [x, *model.parameters()], dy)


def assert_equal_to_loop(layer, x, tolerance):
    """Output and every gradient within `tolerance` of the loop's, relative to each one's largest entry."""
    loop = layer.as_loop()
    size = loop(x).shape
    dy = torch.randn(size, dtype=x.dtype)
    y, mine = gradients(layer, x, dy)
    expected, theirs = gradients(loop, x, dy)
    names = [n for n, _ in loop.named_parameters()]
    named = SplitTransformMerge.from_loop(loop)
    named.load_state_dict(dict(zip(names, theirs[1:], strict=True)))  # the loop's gradients under the layer's names
    pairs = [(y, expected), (mine[0], theirs[0]), *zip(mine[1:], named.parameters(), strict=True)]
    for a, b in pairs:
        assert a.shape == b.shape
        if b.numel():
            torch.testing.assert_close(a, b.to(a.dtype), rtol=0, atol=tolerance * max(1.0, b.abs().max().item()))


def layouts(x, layout):
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "sliced":
        return torch.cat([x, x], 3)[..., : x.shape[3]]
    return x


@st.composite
def cases(draw):
    integer = lambda low, high: draw(st.integers(low, high))  # noqa: E731
    pick = lambda *values: draw(st.sampled_from(values))  # noqa: E731
    k, dilation = pick(1, 3, 5, (1, 3)), pick(1, 2, (2, 1))
    layer = {
        "in_channels": integer(1, 21),
        "out_channels": integer(1, 21),
        "paths": integer(1, 5),
        "width": pick(1, 2, 3, 4, 5, 8),
        "kernel_size": k,
        "stride": pick(1, 2, (2, 1), 3),
        "dilation": dilation,
        "activation_after": pick(*AFTER),
        "bias": pick(True, True, False),
    }
    return layer, (integer(0, 4), integer(1, 13), integer(1, 20)), pick("contiguous", "channels_last", "sliced"), pick(1, 2, 3)


def compare(case, seed=0):
    arguments, (n, h, w), layout, threads = case
    torch.manual_seed(seed)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    patch = pytest.MonkeyPatch()
    patch.setattr(cpu, "WORTH", 1)  # small cases run on all threads too
    try:
        layer = SplitTransformMerge(**arguments, dtype=torch.float64)
        x = layouts(torch.randn(n, arguments["in_channels"], h, w, dtype=torch.float64), layout)
        assert_equal_to_loop(layer, x, 1e-12)
        y = layer(x)
        assert y.is_contiguous(memory_format=cpu.layout(x))
        with torch.no_grad():  # inference keeps no hidden maps: the same numbers
            assert torch.equal(layer(x), y)
    finally:
        patch.undo()
        torch.set_num_threads(before)


@kernel
@settings(max_examples=80, deadline=None)
@given(cases())
def test_kernel_is_the_loop_to_1e_12(case):
    compare(case)


@kernel
@pytest.mark.parametrize("after", AFTER)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize(("n", "size", "threads", "stride"), [(5, (7, 7), 2, 1), (9, (3, 5), 2, 2), (19, (7, 8), 1, 1), (7, (1, 1), 3, 1)])
def test_small_images_that_share_panels_and_planes(n, size, threads, stride, layout, after):
    layer = {"in_channels": 19, "out_channels": 18, "paths": 3, "width": 4, "kernel_size": 3, "stride": stride, "activation_after": after}
    compare((layer, (n, *size), layout, threads))


@settings(max_examples=25, deadline=None)
@given(cases())
def test_plain_torch_is_the_loop_to_1e_12(case):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "available", lambda double: False)
        compare(case)


@pytest.mark.parametrize("after", AFTER)
def test_the_sizes_of_the_paper_in_both_precisions(after, route):
    """256 → 32 x (4, 4) → 256 on whole and broken panels, with several images in a chunk and several chunks in an image."""
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 2e-5)):
        for n, size in ((3, 7), (1, 30)):
            torch.manual_seed(1)
            layer = SplitTransformMerge(256, 256, 32, 4, activation_after=after, dtype=dtype)
            assert sum(p.numel() for p in layer.parameters()) == 78592
            assert_equal_to_loop(layer, torch.randn(n, 256, size, size, dtype=dtype), tolerance)


@pytest.mark.parametrize("after", AFTER)
def test_nan_reaches_what_it_reaches_in_the_loop(after, route):
    layer = SplitTransformMerge(6, 7, 3, 4, activation_after=after)
    x = torch.randn(2, 6, 9, 20)
    x[1, 2, 4, 5] = torch.nan
    assert torch.equal(layer(x).isnan(), layer.as_loop()(x).isnan())
    assert layer(x).isnan().any()
    weights = layer.as_loop()
    with torch.no_grad():
        layer.merge_bias[1, 3] = torch.nan
        weights.paths[1].expand.bias[3] = torch.nan
    assert torch.equal(layer(x).isnan(), weights(x).isnan())


@pytest.mark.parametrize("after", AFTER)
def test_two_derivatives(after, route):
    torch.manual_seed(0)
    layer = SplitTransformMerge(2, 3, 2, 2, activation_after=after, dtype=torch.float64)
    x = torch.randn(2, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    names = [n for n, _ in layer.named_parameters()]

    def f(x, *parameters):
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), x)

    assert torch.autograd.gradcheck(f, (x, *layer.parameters()))
    assert torch.autograd.gradgradcheck(f, (x, *layer.parameters()), fast_mode=True)


@pytest.mark.parametrize("after", AFTER)
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_function_transforms(after, route):
    """torch.func: a gradient, and one for each image of a batch."""
    layer = SplitTransformMerge(3, 4, 2, 2, activation_after=after, dtype=torch.float64)
    parameters, x = dict(layer.named_parameters()), torch.randn(3, 3, 5, 5, dtype=torch.float64)

    def loss(parameters, x):
        return torch.func.functional_call(layer, parameters, x).square().sum()

    expected = torch.autograd.grad(layer(x).square().sum(), list(parameters.values()))
    whole = torch.func.grad(loss)(parameters, x)
    single = torch.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
    for name, value in zip(parameters, expected, strict=True):
        torch.testing.assert_close(whole[name], value)
        torch.testing.assert_close(single[name].sum(0), value)


def test_only_what_needs_a_gradient_gets_one(route):
    layer = SplitTransformMerge(4, 4, 2, 2, activation_after="path")
    layer.requires_grad_(False)
    layer.merge_bias.requires_grad_()
    layer(torch.randn(1, 4, 5, 5)).sum().backward()
    assert [n for n, p in layer.named_parameters() if p.grad is not None] == ["merge_bias"]
    layer.requires_grad_(False)
    assert not layer(torch.randn(1, 4, 5, 5)).requires_grad


def test_autocast_and_half_precision(route):
    layer = SplitTransformMerge(8, 8, 3, 4, activation_after="path")
    x = torch.randn(2, 8, 6, 6)
    exact = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
        again = layer(y)
    assert y.dtype == again.dtype == torch.bfloat16
    torch.testing.assert_close(y, exact.bfloat16())  # float32 inside: rounded once
    y.float().sum().backward()
    assert layer.reduce_weight.grad.dtype == torch.float32
    half = SplitTransformMerge(8, 8, 3, 4, activation_after="path", dtype=torch.bfloat16)
    half.load_state_dict(layer.state_dict())
    torch.testing.assert_close(half(x.bfloat16()).float(), exact, rtol=0.1, atol=0.05)


@pytest.mark.parametrize("after", AFTER)
def test_registered_operator(after, route):
    layer = SplitTransformMerge(5, 6, 2, 3, stride=2, activation_after=after)
    parameters = (
        layer.reduce_weight,
        layer.reduce_bias,
        layer.transform_weight,
        layer.transform_bias,
        layer.merge_weight,
        layer.merge_bias,
    )
    for layout in ("contiguous", "channels_last"):
        x = layouts(torch.randn(2, 5, 6, 7), layout).requires_grad_()
        operands = (x, *parameters, [2, 2], [1, 1], [1, 1], after or "none", True)
        tests = ("test_schema", "test_autograd_registration", "test_faketensor")
        torch.library.opcheck(torch.ops.initio.split_transform_merge.default, operands, test_utils=tests)


def test_export_and_compile(route):
    layer = SplitTransformMerge(6, 6, 2, 3, activation_after="path")
    x = torch.randn(2, 6, 7, 7)
    exported = torch.export.export(layer, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=2, max=64)},))
    assert [n.target for n in exported.graph.nodes if "split_transform" in str(n.target)] == [
        torch.ops.initio.split_transform_merge.default
    ]
    bigger = torch.randn(5, 6, 7, 7)
    assert torch.equal(exported.module()(bigger), layer(bigger))
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    dy = torch.randn(2, 6, 7, 7)
    (y, mine), (expected, theirs) = gradients(compiled, x, dy), gradients(layer, x, dy)
    assert torch.equal(y, expected)
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def test_meta_and_fake_tensors_have_the_size():
    layer = SplitTransformMerge(6, 10, 2, 3, stride=2, activation_after="path", device="meta")
    assert layer(torch.empty(4, 6, 9, 9, device="meta")).shape == (4, 10, 5, 5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_the_other_forms_can_be_scripted_and_the_layer_traced():
    layer = SplitTransformMerge(6, 6, 2, 3, activation_after="path")
    x = torch.randn(1, 6, 5, 5)
    with torch.no_grad():
        for other in (layer.as_loop(), layer.as_grouped()):
            torch.testing.assert_close(torch.jit.script(other)(x), layer(x))
        assert torch.equal(torch.jit.trace(layer, x)(x), layer(x))


@pytest.mark.parametrize("after", AFTER)
@pytest.mark.parametrize("bias", [True, False])
def test_three_forms_one_state_dict(after, bias):
    layer = SplitTransformMerge(6, 9, 4, 3, 5, 2, 2, activation_after=after, bias=bias).eval()
    loop, grouped = layer.as_loop(), layer.as_grouped()
    assert isinstance(loop, PathLoop)
    assert isinstance(grouped, GroupedPaths)
    assert not loop.training
    x = torch.randn(2, 6, 12, 12)
    torch.testing.assert_close(loop(x), layer(x))
    torch.testing.assert_close(grouped(x), layer(x))
    for back in (SplitTransformMerge.from_loop(loop), SplitTransformMerge.from_grouped(grouped)):
        assert repr(back) == repr(layer)
        assert all(torch.equal(a, b) for a, b in zip(back.state_dict().values(), layer.state_dict().values(), strict=True))
    with torch.no_grad():
        loop.paths[0].reduce.weight.zero_()
    assert layer.reduce_weight.all(), "as_loop copies"


def test_state_dicts_of_the_other_forms_load_inside_a_model():
    make = lambda: nn.Sequential(nn.Conv2d(3, 6, 1), SplitTransformMerge(6, 9, 4, 3))  # noqa: E731
    source = make()
    for other in (source[1].as_loop(), source[1].as_grouped()):
        target = make()
        target.load_state_dict(nn.Sequential(source[0], other).state_dict())
        assert all(torch.equal(a, b) for a, b in zip(target.state_dict().values(), source.state_dict().values(), strict=True))


def test_state_dicts_that_do_not_fit_name_their_keys():
    layer = SplitTransformMerge(6, 9, 4, 3)
    state = layer.as_loop().state_dict()
    del state["paths.2.expand.bias"]
    with pytest.raises(KeyError, match=r"4 paths lacks paths\.2\.expand\.bias"):
        layer.load_state_dict(state)
    with pytest.raises(RuntimeError, match=r"layer1\.0\.weight"):
        layer.load_state_dict({"layer1.0.weight": torch.ones(1)})
    with pytest.raises(ValueError, match=r"12 channels, which 5 paths do not divide"):
        SplitTransformMerge(6, 9, 5, 3).load_state_dict(layer.as_grouped().state_dict())
    with pytest.raises(RuntimeError, match="size mismatch for merge_weight"):
        SplitTransformMerge(6, 8, 4, 3).load_state_dict(layer.as_loop().state_dict())
    wrong = layer.as_grouped()
    wrong.paths = 3
    with pytest.raises(ValueError, match="transform has groups=4, expected the 3 paths"):
        SplitTransformMerge.from_grouped(wrong)


def test_the_default_initialisation_is_the_law_of_the_loop():
    """Each operand fills U(±1/√fan-in) with the fan-in of one path's Conv2d, as the loop's own default does."""
    torch.manual_seed(0)
    layer = SplitTransformMerge(64, 300, 25, 16)
    fresh = PathLoop([path_like(layer) for _ in range(25)], nn.Identity())
    theirs = SplitTransformMerge.from_loop(fresh)
    for (name, mine), other in zip(layer.named_parameters(), theirs.parameters(), strict=True):
        stage = name.split("_")[0]
        bound = {"reduce": 64, "transform": 16 * 9, "merge": 16}[stage] ** -0.5
        assert 0.98 * bound < mine.abs().max() <= bound, name
        error = 4 * (1 / 45 / mine.numel() * 2) ** 0.5 * 3  # four standard errors of a difference of uniform second moments
        assert abs(mine.var() / other.var() - 1) < 2 * error, name


def path_like(layer):
    path = layer.as_loop().paths[0]
    for conv in (path.reduce, path.transform, path.expand):
        conv.reset_parameters()
    return path


@pytest.mark.parametrize("after", ["path", "sum"])
def test_another_activation_is_the_loop_too(after):
    layer = SplitTransformMerge(5, 6, 3, 4, activation=nn.GELU, activation_after=after, dtype=torch.float64)
    assert_equal_to_loop(layer, torch.randn(2, 5, 6, 6, dtype=torch.float64), 1e-12)


def test_norm_stands_after_the_convolutions_and_the_sum():
    layer = SplitTransformMerge(5, 6, 3, 4, norm=nn.BatchNorm2d)
    x = torch.randn(4, 5, 6, 6)
    bare = SplitTransformMerge(5, 6, 3, 4)
    bare.load_state_dict({k: v for k, v in layer.state_dict().items() if not k.startswith("norms")})
    grouped = bare.as_grouped()
    first, second, third = layer.norms
    h = second(grouped.transform(first(grouped.reduce(x)).relu())).relu()
    expected = third(grouped.expand(h).unflatten(1, (3, 6)).sum(1)).relu()
    torch.testing.assert_close(layer(x), expected)
    with pytest.raises(ValueError, match="as_loop: a layer with a norm"):
        layer.as_loop()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"paths": 0}, "paths: expected a positive integer, got 0"),
        ({"kernel_size": 2}, "kernel_size: expected odd numbers"),
        ({"stride": 0}, "stride: expected a positive integer"),
        ({"merge": "concat"}, "merge: expected \"sum\", got 'concat'"),
        ({"activation_after": "paths"}, 'activation_after: expected "path", "sum" or None'),
        ({"activation_after": "path", "norm": nn.BatchNorm2d}, "norm: not with activation_after"),
    ],
)
def test_bad_arguments_say_what_was_expected(arguments, message):
    with pytest.raises(ValueError, match=message):
        SplitTransformMerge(**{"in_channels": 4, "out_channels": 4, "paths": 2, "width": 2} | arguments)


def test_bad_input_says_the_remedy():
    layer = SplitTransformMerge(4, 4, 2, 2)
    with pytest.raises(ValueError, match=r"expected \(N, 4, H, W\) or \(4, H, W\), got \(1, 5, 6, 6\)"):
        layer(torch.randn(1, 5, 6, 6))
    with pytest.raises(TypeError, match=r"got torch\.int64; x\.float\(\)"):
        layer(torch.ones(1, 4, 6, 6, dtype=torch.long))
    with pytest.raises(TypeError, match=r"float64 but weights torch\.float32"):
        layer(torch.randn(1, 4, 6, 6, dtype=torch.float64))
    assert layer(torch.randn(4, 6, 6)).shape == (4, 6, 6)


class Largest(TorchDispatchMode):
    """The elements of the largest tensor that any operation made."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(t, torch.Tensor):
                self.elements = max(self.elements, t.numel())
        return out


def test_the_channels_before_the_sum_are_never_in_memory(monkeypatch):
    """The largest tensor of a training step in plain torch is the output's size; the materialised form's is `paths` times that."""
    monkeypatch.setattr(build, "available", lambda double: False)
    h, dy = torch.randn(2, 32, 6, 6), torch.randn(2, 64, 6, 6)
    w, b = torch.randn(16, 64, 2), torch.randn(16, 64)
    with Largest() as largest:
        per_path.merge(h, w, b)
        per_path.merge_backward(dy, h, w, b)
    assert largest.elements <= dy.numel()
    saved = []
    layer = SplitTransformMerge(64, 64, 16, 2, activation_after="path")
    x = torch.randn(2, 64, 6, 6)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        layer(x)
    assert max(t.numel() for t in saved) <= max(x.numel(), layer.reduce_weight.numel())


def test_a_machine_without_a_compiler_is_told_once(monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    cached = build.library, build.available
    for function in cached:
        function.cache_clear()
    try:
        layer, x = SplitTransformMerge(4, 4, 2, 2, activation_after="path"), torch.randn(1, 4, 5, 5)
        with pytest.warns(RuntimeWarning, match="no-such-compiler is not on the PATH; install one, or name one in CC") as caught:
            outputs = [layer(x) for _ in range(2)]
        assert len(caught) == 1
        torch.testing.assert_close(outputs[0], layer.as_loop()(x))
    finally:
        for function in cached:
            function.cache_clear()


def run(code, **environment):
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_import_builds_nothing(tmp_path):
    code = "import initio.nn, initio.nn.kernels.build as b; assert b.library.cache_info().currsize == 0"
    run(code, XDG_CACHE_HOME=str(tmp_path))
    assert not any(tmp_path.iterdir())


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_triton_in_its_interpreter_is_plain_torch():
    run(
        """
import torch
from initio.nn import per_path
from initio.nn.kernels import gpu
torch.manual_seed(0)
for n, g, k, o, size in ((2, 3, 4, 70, 12), (1, 2, 16, 5, 3)):
    h, w, b, dy = torch.randn(n, g * k, size, size), torch.randn(g, o, k), torch.randn(g, o), torch.randn(n, o, size, size)
    assert gpu.usable(h, w, b)
    for bias in (b, None):
        torch.testing.assert_close(gpu.merge(h, w, bias), per_path.merge(h, w, bias), rtol=1e-5, atol=1e-5)
    for a, c in zip(gpu.merge_backward(dy, h, w, b), per_path.merge_backward(dy, h, w, b), strict=True):
        torch.testing.assert_close(a, c, rtol=1e-4, atol=1e-4)
h[0, 0, 0, 0] = torch.nan
assert torch.equal(gpu.merge(h, w, b).isnan(), per_path.merge(h, w, b).isnan())
""",
        TRITON_INTERPRET="1",
    )


@kernel
def test_the_portable_build_is_the_loop(monkeypatch, tmp_path):
    """The narrowest vectors: what a compiler without -march=native, or another processor, makes of the same source."""
    monkeypatch.setattr(build, "ATTEMPTS", ((),))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    build.library.cache_clear()
    try:
        for after in AFTER:
            layer = SplitTransformMerge(9, 10, 3, 4, stride=2, activation_after=after, dtype=torch.float64)
            assert_equal_to_loop(layer, torch.randn(3, 9, 11, 10, dtype=torch.float64), 1e-12)
        assert [path.suffix for path in (tmp_path / "initio").iterdir()] == [".so"]
    finally:
        build.library.cache_clear()
