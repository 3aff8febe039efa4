"""What the reader of the documentation has already: a network in `model.py`, a family in `family.py`, data, an optimizer."""

from pathlib import Path

FILES = {
    "model.py": '''
import torch
from torch import nn

INPUT = "8x3x224x224"


class Block(nn.Module):
    """Two convolutions and a skip."""

    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x):
        return self.relu(x + self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x))))))


class Net(nn.Module):
    """A stem, a stage of residual blocks, a classifier."""

    def __init__(self, channels=8):
        super().__init__()
        self.mean = torch.tensor([0.49, 0.46, 0.41])[:, None, None]  # a fault to find: no buffer
        self.conv1 = nn.Conv2d(3, channels, 7, stride=8, padding=3, bias=False)
        self.layer1 = nn.Sequential(Block(channels), Block(channels))
        self.fc = nn.Linear(channels, 10)

    def forward(self, x):
        return self.fc(self.layer1(self.conv1(x - self.mean)).mean((2, 3)))


class Wider(Net):
    """Twice as many channels."""

    def __init__(self):
        super().__init__(16)
''',
    "net.py": '''
import torch
from torch import nn


class Model(nn.Module):
    """A residual stack, as in the derivations."""

    def __init__(self, width=64, depth=3):
        super().__init__()
        self.drop = nn.Dropout(0.1)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        x = torch.relu(self.layers[0](self.drop(x)))
        for layer in self.layers[1:]:
            x = x + torch.relu(layer(x))
        return self.head(x)
''',
    "A.py": "from torch import nn\n\n\ndef Net():\n    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))\n",
    "B.py": "from torch import nn\n\n\ndef Net():\n    return nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 8))\n",
    "family.py": '''
from torch import nn


def mlp(depth=4, gain=1.0, bias=0.05):
    """Layers of one width, of which a sweep changes gain and depth."""
    layers = []
    for _ in range(depth):
        linear = nn.Linear(64, 64)
        nn.init.normal_(linear.weight, std=gain / 8)
        nn.init.normal_(linear.bias, std=bias)
        layers += [linear, nn.Tanh()]
    return nn.Sequential(*layers)


class Language(nn.Module):
    """A table, two blocks, a readout."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(32000, 16)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16)) for _ in range(2))
        self.head = nn.Linear(16, 32)

    def forward(self, ids):
        x = self.table(ids)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


def build():
    return Language()
''',
}

READER = """
import torch
import torch.nn.functional as F
from torch import nn

import initio
from family import build, mlp
from model import Net, Wider

Model = Net
model = Net()
batch = torch.randn(8, 3, 224, 224)
loader = [(torch.randn(8, 3, 224, 224), torch.randint(10, (8,))) for _ in range(2)]
optimizer = torch.optim.SGD(model.parameters(), 0.01)
"""
"""Names that the pages take as known."""


def settle(folder: Path) -> None:
    """Write the files of the reader into a folder."""
    for name, text in FILES.items():
        (folder / name).write_text(text.lstrip(), encoding="utf-8")


PAGES = {
    "sweep": """
for name in ("before.sqlite", "after.sqlite"):
    initio.sweep(mlp, {"gain": (0.5, 1.0)}, (4, 64), store=name, workers=0, findings=False)
""",
    "large": "spread = lambda model: model\n",
    "rewrite": "checkpoint = model.state_dict()\nmodel.eval()\n",
    "hugging-face": "arguments = data = None\n",
}
"""What single pages take as known besides."""
