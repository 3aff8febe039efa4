"""A bottleneck, and with `paths=32 width=4` the split-transform-merge block of its size: 213,504 parameters against 78,592."""

from __future__ import annotations

from torch import Tensor, nn

INPUT = "4x256x14x14"


class Path(nn.Sequential):
    """256 → width → width → 256 channels by 1×1, 3×3 and 1×1 convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__(
            nn.Conv2d(256, width, 1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 256, 1)
        )  # fmt: skip


class Model(nn.Module):
    """The outputs of all paths are added: (C_in·width + width) + (9·width² + width) + (width·C_out + C_out) parameters a path."""

    def __init__(self, paths: int = 1, width: int = 128) -> None:
        super().__init__()
        self.paths = nn.ModuleList(Path(width) for _ in range(paths))
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 256, height, width) to itself."""
        first, *others = (path(x) for path in self.paths)
        for other in others:
            first = first + other
        return self.act(first)
