"""Thirty-two parallel paths of convolutions kept in plain lists: none of their weights is registered."""

from __future__ import annotations

import torch
from torch import Tensor, nn

INPUT = "4x256x14x14"


class Model(nn.Module):
    """A split–transform–merge layer, written literally: 256 → 4 → 4 → 256 channels in each path, the paths added."""

    def __init__(self, paths: int = 32, width: int = 4) -> None:
        super().__init__()
        self.reduce = [nn.Conv2d(256, width, 1) for _ in range(paths)]
        self.mix = [nn.Conv2d(width, width, 3, padding=1) for _ in range(paths)]
        self.expand = [nn.Conv2d(width, 256, 1) for _ in range(paths)]
        self.act = nn.ReLU()
        self.norm = nn.BatchNorm2d(256)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 256, height, width) to itself."""
        outputs = [
            expand(self.act(mix(self.act(reduce(x))))) for reduce, mix, expand in zip(self.reduce, self.mix, self.expand, strict=True)
        ]
        return self.act(self.norm(torch.stack(outputs).sum(0)))
