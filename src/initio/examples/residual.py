"""A residual network with a norm in every branch: healthy, nothing to report."""

from __future__ import annotations

from torch import Tensor, nn

INPUT = "32x64"


class Block(nn.Module):
    """y = x + B ReLU(A norm(x))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 2 * width)
        self.act = nn.ReLU()
        self.contract = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, width) to itself."""
        return x + self.contract(self.act(self.expand(self.norm(x))))


class Model(nn.Module):
    """Ten blocks between an embedding and a classifier of ten classes."""

    def __init__(self, width: int = 128, depth: int = 10) -> None:
        super().__init__()
        self.stem = nn.Linear(64, width)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 64) to (batch, 10)."""
        return self.head(self.norm(self.blocks(self.stem(x))))
