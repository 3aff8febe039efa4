"""Layers without a skip under large weights: the signal triples in every layer, and the gradient with it."""

from __future__ import annotations

from torch import Tensor, nn

INPUT = "16x64"


class Model(nn.Module):
    """Weights from N(0, 6/n) with ReLU: three times the variance that keeps the second moment."""

    def __init__(self, width: int = 128, depth: int = 24) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(64, width), nn.ReLU())
        self.layers = nn.Sequential(*(nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(depth)))
        self.head = nn.Linear(width, 10)
        for module in self.layers.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=(6 / width) ** 0.5)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 64) to (batch, 10)."""
        return self.head(self.layers(self.stem(x)))
