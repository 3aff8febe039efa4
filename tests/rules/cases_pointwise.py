"""Functions of single entries against integrals of the op, arithmetic and choices against exact moments or draws."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from rules.harness import Case, Fixed, Iid, Normal, Spec, components

x = Normal((2, 3, 2), components(3), mean=0.3, profile={1: ((1, 1.5, 1), (0, -0.4, 0))})
positive = Normal((2, 3), {(0, 1): 0.005, (1,): 0.003, (): 0.002}, mean=1.5)
g = Normal((2, 3, 2), components(3))
u = Normal((2, 3), components(2), mean=0.2)
v = Normal((2, 3), components(2), mean=-0.4)
w = Normal((3,), 1.0, mean=0.5)


def f(op: str, *args: Any, kinks: tuple[float, ...] = (), of: Normal = x, name: str = "", **more: Any) -> Case:
    return Case(f"aten.{op}", (of, *args), name=name, pointwise=True, kinks=kinks, **more)


FUNCTIONS = [
    f("relu", kinks=(0,)),
    f("relu6", kinks=(0, 6)),
    f("leaky_relu", 0.2, kinks=(0,)),
    f("elu", 0.7, kinks=(0,)),
    f("selu", kinks=(0,)),
    f("celu", 1.3, kinks=(0,)),
    f("gelu"),
    f("silu"),
    f("mish"),
    f("sigmoid"),
    f("tanh"),
    f("hardtanh", -0.5, 1.0, kinks=(-0.5, 1)),
    f("hardsigmoid", kinks=(-3, 3)),
    f("hardswish", kinks=(-3, 3)),
    f("softplus", 2.0, 30.0),
    f("softshrink", 0.4, kinks=(-0.4, 0.4)),
    f("hardshrink", 0.4, kinks=(-0.4, 0.4)),
    f("threshold", 0.2, -1.0, kinks=(0.2,)),
    f("exp"),
    f("exp2"),
    f("expm1"),
    f("abs", kinks=(0,)),
    f("square"),
    f("sin"),
    f("cos"),
    f("erf"),
    f("erfc"),
    f("sign", kinks=(0,)),
    f("sgn", kinks=(0,)),
    f("neg"),
    f("sinh"),
    f("cosh"),
    f("asinh", approximate=1e-8, why="remainder of the expansion of a function with branch points at ±i"),
    f("atan", approximate=1e-8, why="remainder of the expansion of a function with poles at ±i"),
    f("log_sigmoid"),
    f("log", of=positive),
    f("log1p", of=positive),
    f("log2", of=positive),
    f("log10", of=positive),
    f("sqrt", of=positive),
    f("rsqrt", of=positive),
    f("reciprocal", of=positive),
    f("log_sigmoid_forward", outputs=(0,)),
    f("clamp", -0.3, 0.8, kinks=(-0.3, 0.8)),
    f("clip", -0.3, None, kinks=(-0.3,)),
    f("clamp_min", 0.1, kinks=(0.1,)),
    f("clamp_max", 0.1, kinks=(0.1,)),
    f("pow.Tensor_Scalar", 3),
    f("pow.Tensor_Scalar", -1.5, of=positive, name="fractional"),
    Case("aten.pow.Scalar", (2.0, x), pointwise=True),
    f("gt.Scalar", 0.2, kinks=(0.2,)),
    f("ge.Scalar", 0.2, kinks=(0.2,)),
    f("lt.Scalar", 0.2, kinks=(0.2,)),
    f("le.Scalar", 0.2, kinks=(0.2,)),
    Case("aten.gelu", (x,), {"approximate": "tanh"}, name="tanh", pointwise=True),
]


def d(
    op: str, *args: Any, kinks: tuple[float, ...] = (), of: Spec = x, name: str = "", approximate: float = 0.0, why: str = "", **kwargs: Any
) -> Case:
    more = {"approximate": approximate, "why": why}
    return Case(f"aten.{op}", (g, of, *args), kwargs, name=name, cotangent=g, pointwise=True, kinks=kinks, **more)


BACKWARD = [
    d("gelu_backward"),
    Case("aten.gelu_backward", (g, x), {"approximate": "tanh"}, name="tanh", cotangent=g, pointwise=True),
    d("silu_backward"),
    d("mish_backward"),
    d("hardtanh_backward", -0.5, 1.0, kinks=(-0.5, 1)),
    d("hardsigmoid_backward", kinks=(-3, 3), approximate=1e-7, why="torch keeps 1/6 in float32"),
    d("hardswish_backward", kinks=(-3, 3)),
    d("softplus_backward", 1.0, 20.0),
    d("softshrink_backward", 0.4, kinks=(-0.4, 0.4)),
    d("hardshrink_backward", 0.4, kinks=(-0.4, 0.4)),
    d("threshold_backward", 0.2, kinks=(0.2,)),
    d("leaky_relu_backward", 0.2, False, kinks=(0,)),
    d("sigmoid_backward", of=x.then("sigmoid")),
    d("tanh_backward", of=x.then("tanh")),
    Case("aten.elu_backward", (g, 0.7, 1.2, 0.8, False, x), cotangent=g, pointwise=True, kinks=(0,)),
    Case("aten.elu_backward", (g, 0.7, 1.0, 1.0, True, x.then("elu", 0.7)), name="of the result", cotangent=g, pointwise=True, kinks=(0,)),
    Case("aten.log_sigmoid_backward", (g, x, Fixed(0.0)), cotangent=g, pointwise=True, run=lambda a, b, _c: a * torch.sigmoid(-b)),
]

ARITHMETIC = [
    Case("aten.add.Tensor", (u, v), linear=True),
    Case("aten.add.Tensor", (u, w), {"alpha": 2.0}, name="broadcast", linear=True),
    Case("aten.add.Tensor", (u, u), name="twice the same", linear=True),
    Case("aten.add.Tensor", (u, u.then("relu")), name="of one field"),
    Case("aten.sub.Tensor", (u, v), {"alpha": 0.5}, linear=True),
    Case("aten.rsub.Scalar", (u, 1.0), linear=True),
    Case("aten.mul.Tensor", (u, v)),
    Case("aten.mul.Tensor", (u, w), name="broadcast"),
    Case("aten.mul.Tensor", (u, u.then("sigmoid")), name="of one field"),
    Case("aten.multiply.Tensor", (u, v)),
    Case("aten.div.Tensor", (u, positive), name="independent"),
    Case("aten.div.Scalar", (u, 2.0), linear=True),
    Case("aten.true_divide.Tensor", (u, positive)),
    Case("aten.addcmul", (u, v, w)),
    Case("aten.addcdiv", (u, v, positive), {"value": 0.5}),
    Case("aten.lerp.Scalar", (u, v, 0.3), linear=True),
    Case("aten.lerp.Tensor", (u, v, Iid((2, 3), "uniform")), name="tensor"),
    Case("aten.maximum", (u, v)),
    Case("aten.minimum", (u, w), name="broadcast"),
    Case("aten.gt.Tensor", (u, v), name="tensors"),
]

CHOICES = [
    Case("aten.where.self", (Iid((2, 3), "mask"), u, v), run=lambda c, a, b: torch.where(c > 0, a, b)),
    Case("aten.where.self", (Fixed([True, False, True]), u, v), name="known", run=lambda c, a, b: torch.where(c, a, b), linear=False),
    Case("aten.masked_fill.Scalar", (u, Iid((2, 3), "mask"), 0.5), run=lambda a, m: torch.where(m > 0, 0.5, a)),
]

PRELU = [
    Case("aten._prelu_kernel", (u, Fixed([0.25])), run=lambda a, _w: F.leaky_relu(a, 0.25)),
    Case("aten.prelu", (Normal((2, 3), components(2)), Normal((3,), 0.04, mean=0.25))),
    Case(
        "aten._prelu_kernel_backward",
        (gu := Normal((2, 3), components(2)), u, Fixed([0.25])),
        run=lambda a, b, _w: (torch.where(b > 0, a, 0.25 * a), a * b.clamp(max=0)),
    ),
]

CASES = [*FUNCTIONS, *BACKWARD, *ARITHMETIC, *CHOICES, *PRELU]
