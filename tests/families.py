"""Families of models for the tests of sweeps: importable by worker processes."""

import os
import time

import torch
from torch import nn


def mlp(depth: int = 4, gain: float = 1.0, width: int = 32, bias: float = 0.05, act: str = "tanh", drop: float = 0.0, fused: bool = True):
    layers = []
    for _ in range(depth):
        linear = nn.Linear(width, width)
        nn.init.normal_(linear.weight, std=gain / width**0.5)
        nn.init.normal_(linear.bias, std=bias)
        layers += [linear, {"tanh": nn.Tanh, "relu": nn.ReLU}[act]()]
        if drop:
            layers.append(nn.Dropout(drop))
    return nn.Sequential(*layers)


def deaf(depth: int = 4, gain: float = 1.0):
    return mlp(depth)


def needs(depth: int, gain: float):
    return mlp(depth, gain)


def brittle(depth: int = 4, gain: float = 1.0):
    if gain > 2:
        raise ValueError(f"no model with gain {gain}")
    return mlp(depth, gain)


def deadly(depth: int = 4):
    if depth == 3:
        os._exit(7)
    return mlp(depth)


def fatal(gain: float = 1.0):
    """All cells are of one kind, and one value of `gain` ends the process."""
    if abs(gain - 3.0) < 1e-9:
        os._exit(7)
    return mlp(6, gain)


def slow(depth: int = 4, seconds: float = 0.2):
    time.sleep(seconds)
    return mlp(depth)


class Residual(nn.Module):
    def __init__(self, depth: int = 8, gain: float = 1.0, scale: float = 1.0):
        super().__init__()
        self.blocks = nn.ModuleList(mlp(1, gain, bias=0.0) for _ in range(depth))
        self.scale = scale

    def forward(self, x):
        for block in self.blocks:
            x = x + self.scale * block(x)
        return x


class Functional(nn.Module):
    """Layers that no module stands for."""

    def __init__(self, depth: int = 8, gain: float = 1.0):
        super().__init__()
        self.weights = nn.ParameterList(nn.Parameter(torch.randn(32, 32) * gain / 32**0.5) for _ in range(depth))

    def forward(self, x):
        for weight in self.weights:
            x = torch.tanh(nn.functional.linear(x, weight))
        return x
