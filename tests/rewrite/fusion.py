"""Models that are written as users write them, and what every result of `fuse` must satisfy."""

import copy

import torch
import torch.nn.functional as F
from torch import nn

from initio.rewrite import fuse

RELU, GELU = nn.ReLU(), nn.GELU()


def faster(before, after):
    """A timer that runs both and finds the rewrite twice as fast."""
    before()
    after()
    return 2.0


def fused(model, inputs, **options):
    """Fuse, and check what holds for any result: the model as it was, proofs, equal outputs, state dicts there and back."""
    state = {k: t.clone() for k, t in model.state_dict().items()}
    classes = [type(each) for each in model.modules()]
    options.setdefault("timer", faster)
    random = torch.get_rng_state()
    result = fuse(model, inputs, **options)
    assert torch.equal(random, torch.get_rng_state())
    assert [type(each) for each in model.modules()] == classes
    assert all(torch.equal(t, model.state_dict()[k]) for k, t in state.items())
    assert result.model is not model
    assert result.model.training == model.training
    assert all(r.proof.worst <= 1e-9 for r in result.kept)
    assert (result.proof is not None) == bool(result.kept)
    assert result.proof is None or result.proof.worst <= 1e-9
    for given in (state, {k: t.double() if t.is_floating_point() else t for k, t in state.items()}):
        forth = result.from_original(given)
        assert set(forth) == set(result.model.state_dict())
        back = result.to_original(forth)
        assert list(back) == list(state)
        for k, t in given.items():
            torch.testing.assert_close(back[k], t, rtol=1e-5, atol=1e-6)
    assert "rewrites kept" in repr(result)
    if "=" not in inputs and result.kept:
        other = {k: torch.randn_like(t).abs() + 0.1 if t.is_floating_point() else t for k, t in state.items()}
        agree(model, result, other, torch.randn([int(n) for n in inputs.partition(":")[0].split("x")], dtype=torch.float64))
    return result


def agree(model, result, state, x):
    """With other weights, mapped, the fused model still computes what the original does."""
    state = {k: t.double() if t.is_floating_point() else t for k, t in state.items()}
    original, rewritten = copy.deepcopy(model).double().eval(), copy.deepcopy(result.model).double().eval()
    original.load_state_dict(state)
    rewritten.load_state_dict(result.from_original(state))
    torch.testing.assert_close(rewritten(x), original(x), rtol=1e-9, atol=1e-9)


def kinds(result):
    return sorted(r.kind for r in result.kept)


class Loop(nn.Module):
    """The split–transform–merge layer as it is written by hand, in three module lists."""

    def __init__(self, paths=4, width=4, channels=16, per_path=True, bias=True, stride=1, dilation=1, kernel=3):
        super().__init__()
        self.reduce = nn.ModuleList(nn.Conv2d(channels, width, 1, bias=bias) for _ in range(paths))
        padding = dilation * (kernel - 1) // 2
        self.mix = nn.ModuleList(nn.Conv2d(width, width, kernel, stride, padding, dilation, bias=bias) for _ in range(paths))
        self.expand = nn.ModuleList(nn.Conv2d(width, channels, 1, bias=bias) for _ in range(paths))
        self.per_path = per_path

    def forward(self, x):
        out = 0
        for reduce, mix, expand in zip(self.reduce, self.mix, self.expand, strict=True):
            y = expand(F.relu(mix(F.relu(reduce(x)))))
            out = out + (F.relu(y) if self.per_path else y)
        return out


class Path(nn.Module):
    def __init__(self, act, groups=1, out=6):
        super().__init__()
        self.a = nn.Conv2d(6, 4, 1)
        self.b = nn.Conv2d(4, 8, 3, padding=2, dilation=2, groups=groups, bias=False)
        self.c = nn.Conv2d(8, out, 1)
        self.act = act

    def forward(self, x):
        return self.c(self.act(self.b(self.act(self.a(x)))))


class Merged(nn.Module):
    """Paths of the user's own class, merged in one of many ways."""

    def __init__(self, merge, count=3, act=GELU, groups=1):
        super().__init__()
        self.paths = nn.ModuleList(Path(act, groups) for _ in range(count))
        self.merge = merge

    def forward(self, x):
        outputs = [path(x) for path in self.paths]
        match self.merge:
            case "sum":
                return sum(outputs)
            case "residual":
                return x + sum(outputs)
            case "stack":
                return torch.stack(outputs).sum(0)
            case "stack-function":
                return torch.sum(torch.stack(outputs, dim=0), dim=0)
            case "cat":
                return torch.cat(outputs, 1)
            case "tail":
                return sum(output.tanh() for output in outputs)
            case _:
                return torch.stack(outputs).mean(0)


class Heads(nn.Module):
    """Chains of linear layers."""

    def __init__(self, merge, bias=True, count=5):
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(6, 4, bias), nn.Tanh(), nn.Linear(4, 3, bias), nn.SiLU(), nn.Linear(3, 5, bias)) for _ in range(count)
        )
        self.merge = merge

    def forward(self, x):
        outputs = [head(x) for head in self.heads]
        return sum(outputs) if self.merge == "sum" else torch.cat(outputs, -1)


class Attention(nn.Module):
    """Attention as in GPT-like models, with separate projections."""

    def __init__(self, width=16, heads=2, bias=True, p=0.1):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(width, width, bias) for _ in range(4))
        self.heads, self.p = heads, p

    def forward(self, x):
        batch, length, width = x.shape
        q, k, v = (layer(x).view(batch, length, self.heads, -1).transpose(1, 2) for layer in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=self.p if self.training else 0.0)
        return self.out(y.transpose(1, 2).reshape(batch, length, width))


class Block(nn.Module):
    """A basic residual block with a projected skip, as in ResNet."""

    def __init__(self, inputs=4, outputs=8, stride=2, bias=False):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=bias)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=bias)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.down = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=bias), nn.BatchNorm2d(outputs))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + self.down(x))
