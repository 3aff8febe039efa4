"""Twenty Linear + ReLU layers with the default initialisation: the signal and the gradient die on the way."""

from __future__ import annotations

from torch import Tensor, nn

INPUT = "32x64"


class Model(nn.Module):
    """Each layer keeps a sixth of the second moment: a third by U(±1/√n), a half of that by ReLU."""

    def __init__(self, width: int = 128, depth: int = 20) -> None:
        super().__init__()
        self.stem = nn.Linear(64, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.act = nn.ReLU()
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 64) to (batch, 10)."""
        x = self.act(self.stem(x))
        for layer in self.layers:
            x = self.act(layer(x))
        return self.head(x)
