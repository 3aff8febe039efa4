import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from initio.api.counting import count
from initio.core.record import Node, Record, Ref, Value
from initio.interpreters.flops import FORMULAS, macs
from initio.interpreters.kinds import ENTRYWISE, PLUMBING, VIEWS, is_entrywise, is_plumbing


def node(op, shapes, out, *rest, dtype="float32"):
    """A record of one node whose first arguments are tensors of these shapes (None: no tensor)."""
    values = [Value(i, tuple(shape), dtype, i) for i, shape in enumerate([s for s in shapes if s is not None] + [out])]
    position = iter(range(len(values)))
    args = tuple(None if shape is None else Ref(next(position)) for shape in shapes) + rest
    made = Node(0, op, args, {}, (len(values) - 1,), "forward")
    return made, Record((made,), tuple(values), (), (), (), ())


GEOMETRY = ([2, 2], [1, 1], [1, 1], False, [0, 0], 2)
GRADIENT = ([4], *GEOMETRY[:3], False, [0, 0], 2, [True, True, False])
QKV = ((2, 3, 5, 8), (2, 3, 7, 8), (2, 3, 7, 4))
PAIRS = 2 * 3 * 5 * 7
CONVOLVED = 2 * 4 * 5 * 5 * 3 * 9
MERGED = (2 * 64 * 12 * 6, 2 * 16 * 12 * 4 * 9, 2 * 16 * 3 * 5 * 4)
FUSED = ("flash_attention", "flash_attention_for_cpu", "efficient_attention", "cudnn_attention", "fused_attention_overrideable")

CASES = {
    "aten.mm": ([(3, 4), (4, 5)], (3, 5), 60),
    "aten._int_mm": ([(3, 4), (4, 5)], (3, 5), 60),
    "aten._scaled_mm": ([(3, 4), (4, 5), (), ()], (3, 5), 60),
    "aten.mv": ([(3, 4), (4,)], (3,), 12),
    "aten.dot": ([(4,), (4,)], (), 4),
    "aten.vdot": ([(4,), (4,)], (), 4),
    "aten.addmm": ([(5,), (3, 4), (4, 5)], (3, 5), 60),
    "aten.addmv": ([(3,), (3, 4), (4,)], (3,), 12),
    "aten._addmm_activation": ([(5,), (3, 4), (4, 5)], (3, 5), 60),
    "aten.bmm": ([(2, 3, 4), (2, 4, 5)], (2, 3, 5), 120),
    "aten.baddbmm": ([(2, 3, 5), (2, 3, 4), (2, 4, 5)], (2, 3, 5), 120),
    "aten.addbmm": ([(3, 5), (2, 3, 4), (2, 4, 5)], (3, 5), 120),
    "aten.linear": ([(2, 3, 4), (5, 4), (5,)], (2, 3, 5), 120),
    "aten.mkldnn_linear": ([(2, 3, 4), (5, 4), (5,)], (2, 3, 5), 120),
    "aten._mkldnn_linear_pointwise": ([(2, 3, 4), (5, 4), (5,)], (2, 3, 5), 120),
    "aten.linear_backward": ([(2, 3, 4), (2, 3, 5), (5, 4)], (2, 3, 4), 240, [True, True, False]),
    "aten.mkldnn_linear_backward": ([(2, 3, 4), (2, 3, 5), (5, 4)], (2, 3, 4), 120, [False, True, True]),
    "aten.matmul": ([(2, 3, 4), (4, 5)], (2, 3, 5), 120),
    "aten._grouped_mm": ([(6, 4), (3, 4, 5)], (6, 5), 120),
    "aten._scaled_grouped_mm": ([(4, 6), (6, 5)], (3, 4, 5), 120),
    "aten.convolution": ([(2, 6, 10, 10), (4, 3, 3, 3), (4,)], (2, 4, 5, 5), CONVOLVED, *GEOMETRY),
    "aten._convolution": ([(2, 6, 10, 10), (4, 3, 3, 3), None], (2, 4, 5, 5), CONVOLVED, *GEOMETRY),
    "aten.convolution_overrideable": ([(2, 6, 10, 10), (4, 3, 3, 3), None], (2, 4, 5, 5), CONVOLVED, *GEOMETRY),
    "aten.mkldnn_convolution": ([(2, 6, 10, 10), (4, 3, 3, 3), (4,)], (2, 4, 5, 5), CONVOLVED, [1, 1], [2, 2], [1, 1], 2),
    "aten.cudnn_convolution": ([(2, 6, 10, 10), (4, 3, 3, 3)], (2, 4, 5, 5), CONVOLVED, [1, 1], [2, 2], [1, 1], 2),
    "aten.cudnn_convolution_transpose": ([(2, 4, 5, 5), (4, 3, 3, 3)], (2, 6, 10, 10), CONVOLVED, [1, 1], [1, 1], [2, 2], [1, 1], 2),
    "aten._slow_conv2d_forward": ([(2, 3, 10, 10), (4, 3, 3, 3)], (2, 4, 5, 5), CONVOLVED, [3, 3]),
    "aten.slow_conv3d_forward": ([(2, 3, 1, 10, 10), (4, 3, 1, 3, 3)], (2, 4, 1, 5, 5), CONVOLVED, [1, 3, 3]),
    "aten.conv_depthwise3d": ([(2, 4, 3, 5, 5), (4, 1, 1, 3, 3)], (2, 4, 3, 5, 5), 2 * 4 * 75 * 9, [1, 3, 3]),
    "aten._conv_depthwise2d": ([(2, 4, 5, 5), (4, 1, 3, 3)], (2, 4, 5, 5), 2 * 4 * 25 * 9, [3, 3]),
    "aten.convolution_backward": ([(2, 4, 5, 5), (2, 6, 10, 10), (4, 3, 3, 3)], (2, 6, 10, 10), 2 * CONVOLVED, *GRADIENT),
    "aten.convolution_backward_overrideable": (
        [(2, 4, 5, 5), (2, 6, 10, 10), (4, 3, 3, 3)], (2, 6, 10, 10), CONVOLVED, *GEOMETRY[:3], False, [0, 0], 2, [False, True, True],
    ),
    "initio.split_transform_merge": (
        [(2, 6, 8, 8), (12, 6), (12,), (12, 4, 3, 3), (12,), (3, 5, 4), (3, 5)], (2, 5, 4, 4), MERGED[0] + MERGED[1] + MERGED[2],
        [2, 2], [1, 1], [1, 1], "path", True,
    ),
    "initio.split_transform_merge_backward": (
        [(2, 5, 4, 4), (2, 6, 8, 8), (12, 6), (12, 4, 3, 3), (3, 5, 4), (3, 5), (2, 12, 8, 8), (2, 12, 4, 4), None], (2, 6, 8, 8),
        MERGED[0] + 2 * MERGED[1] + 3 * MERGED[2], [2, 2], [1, 1], [1, 1], "path", False,
    ),
    "aten._trilinear": ([(7, 3), (5, 3, 4), (7, 4)], (7, 5), 2 * 7 * 5 * 3 * 4, [1, 3], [0], [1, 2], [2, 3]),
    "aten._cdist_forward": ([(5, 3), (7, 3)], (5, 7), 105, 2.0, None),
    "aten._euclidean_dist": ([(5, 3), (7, 3)], (5, 7), 105),
    "aten._scaled_dot_product_attention_math": (QKV, (2, 3, 5, 4), PAIRS * 12),
    **{f"aten._scaled_dot_product_{name}": (QKV, (2, 3, 5, 4), PAIRS * 12) for name in FUSED},
    **{f"aten._scaled_dot_product_{name}_backward": ([(2, 3, 5, 4), *QKV], (2, 3, 5, 8), PAIRS * (3 * 8 + 2 * 4)) for name in FUSED},
}  # fmt: skip


def test_every_formula_has_a_case():
    assert set(CASES) == set(FORMULAS)


@pytest.mark.parametrize("op", CASES)
def test_formula(op):
    shapes, out, expected, *rest = CASES[op]
    assert macs(*node(f"{op}.default", shapes, out, *rest)) == expected


def test_complex_products_are_four_real_ones():
    assert macs(*node("aten.mm.default", [(3, 4), (4, 5)], (3, 5), dtype="complex64")) == 240


def test_kinds_are_apart():
    assert not PLUMBING & ENTRYWISE
    assert VIEWS <= PLUMBING
    assert not {name.partition(".")[2] for name in FORMULAS} & (PLUMBING | ENTRYWISE)
    assert is_entrywise("aten.gelu_backward.default")
    assert is_entrywise("aten._softmax_backward_data.default")
    assert is_plumbing("aten.select_backward.default")
    assert is_entrywise("aten.embedding_dense_backward.default")
    assert not is_plumbing("mine.custom.default")


class Function(nn.Module):
    """A function of the input and of weights of given shapes."""

    def __init__(self, function, *shapes):
        super().__init__()
        self.function = function
        self.weights = nn.ParameterList(nn.Parameter(torch.randn(shape)) for shape in shapes)

    def forward(self, x):
        return self.function(x, *self.weights)


REAL = {
    "linear": (lambda: nn.Linear(6, 7), (3, 5, 6)),
    "einsum": (lambda: Function(lambda x, w: torch.einsum("bij,jkl->bikl", x, w), (6, 3, 2)), (4, 5, 6)),
    "products": (lambda: Function(lambda x, w: torch.bmm(x @ w, x.transpose(1, 2)), (6, 6)), (4, 5, 6)),
    "baddbmm": (lambda: Function(lambda x, w: torch.baddbmm(w, x, x.transpose(1, 2)) @ w, (4, 5, 5)), (4, 5, 6)),
    "conv1d": (lambda: nn.Sequential(nn.Conv1d(6, 8, 3, stride=2), nn.Conv1d(8, 4, 3, dilation=2)), (2, 6, 31)),
    "conv2d": (lambda: nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 6, (1, 3), stride=(2, 1))), (2, 3, 12, 9)),
    "conv3d": (lambda: nn.Sequential(nn.Conv3d(2, 4, 3), nn.Conv3d(4, 3, 2)), (2, 2, 6, 7, 8)),
    "transposed": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 6, 3, stride=2)), (2, 3, 9, 9)),
    "lstm": (lambda: nn.LSTM(6, 8, 2, batch_first=True, bidirectional=True), (3, 5, 6)),
    "attention": (lambda: nn.MultiheadAttention(8, 2, batch_first=True), None),
}  # fmt: skip


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


def counted(model, x):
    """What torch's counter sees of a real forward and backward pass, attention by its definition."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.MATH), torch.backends.mkldnn.flags(enabled=False), FlopCounterMode(display=False) as counter:
        result = model(x)
        forward = counter.get_total_flops()
        (result[0] if isinstance(result, tuple) else result).sum().backward()
    return forward, counter.get_total_flops() - forward


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", REAL)
def test_against_the_counter_of_torch(name):
    build, shape = REAL[name]
    if shape is None:
        build, shape = Attending, (3, 5, 8)
    counts = count(build, shape, attention="math")
    assert (counts.forward.flops, counts.backward.flops) == counted(build(), torch.randn(shape))
    assert counts.forward.flops == 2 * counts.forward.macs > 0
    assert not counts.uncounted


def test_grouped_convolutions_cost_twice_the_forward_backward():
    """Torch's counter forgets the groups in the weight's gradient."""
    model = nn.Sequential(nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 3, groups=2, stride=2))
    counts = count(model, (2, 4, 16, 16))
    first = 2 * 16 * 16 * 4 * 8
    assert counts["1"].forward.macs == 2 * 14 * 14 * 8 * 9
    assert counts["2"].forward.macs == 2 * 6 * 6 * 4 * 4 * 9
    assert counts.backward.macs == 2 * counts.forward.macs - first  # the input needs no gradient


def test_frozen_layers_have_no_weight_gradient():
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 6), nn.Linear(6, 7))
    model[1].requires_grad_(False)
    counts = count(model, (3, 4))
    assert counts.backward.macs == 3 * (4 * 5 + 5 * 6 + 2 * 6 * 7)
    assert counts.parameters.frozen == 36
    assert counts.memory.gradients == 4 * (25 + 49)


def test_an_unknown_operation_is_named():
    @torch.library.custom_op("initio_tests::twice", mutates_args=())
    def twice(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    twice.register_fake(torch.empty_like)
    twice.register_autograd(lambda ctx, gradient: gradient * 2)
    counts = count(Function(lambda x, w: twice(x @ w), (4, 4)), (3, 4))
    assert [(each.op, each.nodes) for each in counts.uncounted] == [("initio_tests.twice", 1)]


def test_attention_is_counted_in_full_whatever_computes_it():
    """B·H·S²·2·E multiply-accumulates, by a fused kernel, by its definition, and by matrix products."""
    pairs = 2 * 2 * 5 * 5 * 4

    def written(x):
        return (x @ x.transpose(-1, -2)).softmax(-1) @ x

    class Model(nn.Module):
        def __init__(self, function):
            super().__init__()
            self.function, self.scale = function, nn.Parameter(torch.ones(1))

        def forward(self, x):
            return self.function(x * self.scale)

    for function in (
        written,
        lambda x: F.scaled_dot_product_attention(x, x, x),
        lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True),
    ):
        counts = count(Model(function), (2, 2, 5, 4), attention="math")
        assert counts.forward.products == counts.forward.macs == 2 * pairs
        assert counts.backward.macs == 4 * pairs
    assert count(Model(lambda x: F.scaled_dot_product_attention(x, x, x)), (2, 2, 5, 4)).backward.macs == 5 * pairs


def test_intensity_is_work_over_bytes():
    work = count(nn.Linear(8, 16, bias=False), (4, 8), backward=False).forward
    assert work.moved == 4 * (4 * 8 + 8 * 16 + 4 * 16)
    assert math.isclose(work.intensity, 2 * 4 * 8 * 16 / work.moved)
