"""Convolutions: groups, strides, dilation, borders, transposed, and their cotangents."""

from __future__ import annotations

import torch.nn.functional as F

from rules.harness import Case, Normal, components

line = Normal((2, 4, 5), components(3), mean=0.4)
plane = Normal((2, 2, 4, 3), {(0, 1, 2, 3): 1.0, (0, 1): 0.4, (0, 2, 3): 0.3, (2, 3): 0.2}, mean=-0.3)
cube = Normal((2, 1, 3, 3, 2), {(0, 1, 2, 3, 4): 1.0, (0,): 0.3})
border = Normal((2, 2, 6), components(3), profile={2: ((1, 2, 2, 2, 2, 1), (0.5, 0, 0, 0, 0, 0.5))})
w3 = Normal((3, 4, 3), weight=True)
w_group = Normal((4, 2, 3), weight=True)
w_depth = Normal((4, 1, 3), weight=True)
w_plane = Normal((3, 2, 3, 3), weight=True)
w_cube = Normal((2, 1, 2, 2, 2), weight=True)
w_mean = Normal((3, 2, 3), 0.5, mean=0.2, weight=True)
w_up = Normal((4, 2, 3), weight=True)
bias = Normal((3,), 0.5)

FORWARD = [
    Case("aten.convolution", (line, w3, None, [1], [1], [1], False, [0], 1), name="padded"),
    Case("aten.convolution", (line, w3, bias, [2], [0], [1], False, [0], 1), name="strided with bias"),
    Case("aten.convolution", (line, w3, None, [1], [2], [2], False, [0], 1), name="dilated"),
    Case("aten.convolution", (line, w_group, None, [1], [1], [1], False, [0], 2), name="grouped"),
    Case("aten.convolution", (line, w_depth, None, [1], [1], [1], False, [0], 4), name="depthwise"),
    Case("aten.convolution", (border, Normal((2, 2, 3), weight=True), None, [1], [1], [1], False, [0], 1), name="kinds"),
    Case("aten.convolution", (border, w_mean, None, [1], [1], [1], False, [0], 1), name="weights with a mean"),
    Case("aten.convolution", (line, w_up, None, [2], [1], [1], True, [1], 1), name="transposed"),
    Case("aten.convolution", (line, Normal((4, 1, 2), weight=True), None, [2], [0], [1], True, [0], 2), name="transposed and grouped"),
    Case("aten.convolution", (plane, w_plane, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1), name="2d"),
    Case("aten.convolution", (plane, w_plane, None, [2, 1], [1, 1], [1, 1], False, [0, 0], 1), name="2d strided"),
    Case("aten.convolution", (cube, w_cube, None, [1] * 3, [0] * 3, [1] * 3, False, [0] * 3, 1), name="3d"),
]

still = Normal((2, 4, 5))
g5 = Normal((2, 3, 5), components(3))
noise5 = Normal((2, 3, 5))
g_depth = Normal((2, 4, 3), components(3))

BACKWARD = [
    Case(
        "aten.convolution_backward", (g5, still, w3, [0], [1], [1], [1], False, [0], 1, [True, False, False]), name="input",
        forward=lambda x, w: F.conv1d(x, w, padding=1), wrt=(still, w3), cotangent=g5, outputs=(0,),
    ),
    Case(
        "aten.convolution_backward", (g_depth, still, w_depth, [0], [2], [1], [1], False, [0], 4, [True, False, False]),
        name="input of a strided depthwise one", forward=lambda x, w: F.conv1d(x, w, stride=2, padding=1, groups=4), wrt=(still, w_depth), cotangent=g_depth, outputs=(0,),
    ),
    Case(
        "aten.convolution_backward", (noise5, still, w3, [0], [1], [1], [1], False, [0], 1, [True, True, False]), name="input and weight",
        forward=lambda x, w: F.conv1d(x, w, padding=1), wrt=(still, w3), cotangent=noise5, outputs=(0, 1),
    ),
]  # fmt: skip

CASES = FORWARD + BACKWARD
