"""Several layers on one input as one wider layer."""

import copy
import io

import pytest
import torch
from torch import nn

from initio.rewrite import fuse
from initio.rewrite.layers import Packed, Piece
from rewrite.fusion import Attention, Merged, fused, kinds


class Gated(nn.Module):
    def __init__(self, make, count=2):
        super().__init__()
        self.layers = nn.ModuleList(make(i) for i in range(count))

    def forward(self, x):
        y = self.layers[0](x).sigmoid()
        for layer in self.layers[1:]:
            y = y * layer(x).tanh()
        return y


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", ["4x6", "2x3x6"])
def test_linear_layers(bias, shape):
    result = fused(Gated(lambda _: nn.Linear(6, 5, bias), 3), shape)
    assert kinds(result) == ["branches"]
    assert result.kept[0].modules == ("layers.0", "layers.1", "layers.2")
    assert set(result.model.state_dict()) == {f"layers.0.packed.{k}" for k in (["weight", "bias"] if bias else ["weight"])}


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda _: nn.Conv1d(4, 5, 3, 2, 1), "2x4x9"),
        (lambda _: nn.Conv2d(4, 5, (3, 1), padding="same", bias=False), "2x4x6x6"),
        (lambda _: nn.Conv2d(4, 5, 3, dilation=2), "2x4x7x7"),
        (lambda _: nn.Conv3d(4, 3, 2), "2x4x3x3x3"),
        (lambda _: nn.Conv2d(4, 5, 3), "4x6x6"),
    ],
)
def test_convolutions(make, shape):
    assert kinds(fused(Gated(make), shape)) == ["branches"]


def test_different_widths():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 2), nn.Linear(6, 5), nn.Linear(6, 3)

        def forward(self, x):
            return torch.cat([self.a(x), self.b(x).tanh(), self.c(x).relu_()], -1)

    result = fused(Model(), "4x6")
    assert result.kept[0].modules == ("a", "b", "c")
    assert result.model.a.packed.sizes == [2, 5, 3]


@pytest.mark.parametrize(
    "make",
    [
        lambda i: nn.Linear(6, 5, bias=bool(i)),
        lambda i: nn.Linear(6, 5).requires_grad_(bool(i)),
        lambda i: nn.Conv1d(6, 6, 3, padding=1 + i, dilation=1 + i),
        lambda i: nn.Conv1d(6, 6, 3, padding=1, groups=2),
    ],
    ids=["bias", "frozen", "window", "groups"],
)
def test_near_misses(make):
    assert not fused(Gated(make), "4x6" if isinstance(make(0), nn.Linear) else "2x6x8").rewrites


def test_one_layer_after_an_inplace_change_is_another_input():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x):
            x = x * 1
            y = self.a(x)
            x += 1
            return y * self.b(x)

    assert not fused(Model(), "4x6").rewrites


@pytest.mark.parametrize(("bias", "training"), [(True, True), (False, True), (True, False)])
def test_queries_keys_and_values(bias, training):
    result = fused(Attention(bias=bias).train(training), "2x5x16")
    assert kinds(result) == ["qkv"]
    assert result.kept[0].modules == ("q", "k", "v")
    assert result.model.k.weight.shape == (16, 16)


def test_projections_of_a_released_model():
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    config = transformers.LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=20
    )
    model = transformers.LlamaForCausalLM(config)
    result = fused(model, "input_ids=2x5:int(20)")
    assert kinds(result) == ["branches", "branches", "qkv", "qkv"]
    ids = torch.arange(8).reshape(1, 8)
    torch.testing.assert_close(result.model.eval()(ids).logits, model.eval()(ids).logits)
    torch.testing.assert_close(result.model.generate(ids, max_new_tokens=3), model.generate(ids, max_new_tokens=3))


def test_a_model_that_needs_contiguous_results_is_left():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 5), nn.Linear(6, 5)

        def forward(self, x):
            return self.a(x).view(-1) + self.b(x).view(-1)

    result = fused(Model(), "4x6")
    assert not result.kept
    assert "view" in result.rewrites[0].reason


def test_layers_called_by_keyword():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x):
            return self.a(input=x) * self.b(input=x)

    assert kinds(fused(Model(), "4x6")) == ["branches"]


def test_results_are_never_stale():
    layer = Packed(fuse_spec(), torch.randn(6, 4), None, [3, 3])
    first, second = Piece(layer, 0), Piece(layer, 1)
    x = torch.randn(2, 4)
    first(x)
    with torch.no_grad():
        layer.weight.mul_(2)
    torch.testing.assert_close(second(x), x @ layer.weight[3:].T)
    first(x)
    x.add_(1)
    torch.testing.assert_close(second(x), x @ layer.weight[3:].T)
    first(x)
    with torch.no_grad():
        assert not second(x).requires_grad
    torch.testing.assert_close(second(x), x @ layer.weight[3:].T)
    copy.deepcopy(first)
    torch.save(first, io.BytesIO())


def fuse_spec():
    from initio.rewrite.layers import Spec

    return Spec(0)


def test_checkpointing_and_export():
    model = Attention(p=0.0)
    result = fuse(model, "2x5x16", timer=lambda _before, _after: 2.0)
    x = torch.randn(2, 5, 16)
    y = torch.utils.checkpoint.checkpoint(result.model, x, use_reentrant=False)
    y.sum().backward()
    model(x).sum().backward()
    torch.testing.assert_close(result.model.q.packed.weight.grad[:16], model.q.weight.grad)
    program = torch.export.export(result.model.eval(), (x,))
    torch.testing.assert_close(program.module()(x), model.eval()(x))


def test_chains_export():
    model = Merged("residual")
    result = fuse(model, "2x6x8x8", timer=lambda _before, _after: 2.0)
    x = torch.randn(2, 6, 8, 8)
    program = torch.export.export(result.model.eval(), (x,))
    torch.testing.assert_close(program.module()(x), model.eval()(x))
