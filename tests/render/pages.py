import json
import re

from torch import nn

DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)
HOSTILE = "</script><img src=x onerror=alert(1)>\"'`&<!--"


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first = nn.Linear(width, width)
        self.act = nn.ReLU()
        self.second = nn.Linear(width, width)

    def forward(self, x):
        return x + self.second(self.act(self.first(x)))


class Network(nn.Module):
    def __init__(self, name="head", depth=4):
        super().__init__()
        self.blocks = nn.Sequential(*(Block(16) for _ in range(depth)))
        self.add_module(name, nn.Linear(16, 4))
        self.name = name

    def forward(self, x):
        return getattr(self, self.name)(self.blocks(x))


def payload_of(text):
    (data,) = DATA.findall(text)
    return json.loads(data)
