"""What PRF101, PRF102 and PRF103 find, `fuse` rewrites, and then they find nothing."""

import pytest
from torch import nn

from initio import check
from initio.rewrite import fuse
from rewrite.fusion import Attention, Block, Loop, faster


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(16, 32), nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x):
        return self.down(self.gate(x).sigmoid() * self.up(x))


@pytest.mark.parametrize(
    ("model", "inputs", "code"),
    [
        (Branches(), "8x16", "PRF101"),
        (Loop(4, 8, 16), "2x16x6x6", "PRF102"),
        (Attention(p=0.0), "2x5x16", "PRF103"),
        (Block(8, 8, 1).eval(), "2x8x6x6", "PRF103"),
    ],
)
def test_findings_and_rewrites(model, inputs, code):
    def codes(each):
        return {finding.code for finding in check(each, inputs, train=each.training).findings}

    assert code in codes(model)
    result = fuse(model, inputs, timer=faster)
    assert result.kept
    assert not {each for each in codes(result.model) if each.startswith("PRF")}
