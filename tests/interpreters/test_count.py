import functools
import json
import os

import pytest
import torch
from torch import nn

from initio.api import InitioError, count
from initio.core.counts import Parameters
from initio.examples.bottleneck import Model as Bottleneck


class Block(nn.Module):
    """Bottleneck of ResNet-50 (He et al. 2016): 1×1, 3×3 with the stride, 1×1 to four times the width."""

    def __init__(self, channels, width, stride):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width),
        )  # fmt: skip
        change = stride > 1 or channels != 4 * width
        self.skip = (
            nn.Sequential(nn.Conv2d(channels, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)) if change else nn.Identity()
        )

    def forward(self, x):
        return torch.relu(self.body(x) + self.skip(x))


def resnet50():
    layers, channels = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)], 64
    for stage, depth in enumerate((3, 4, 6, 3)):
        width, blocks = 64 * 2**stage, []
        for block in range(depth):
            blocks.append(Block(channels, width, 2 if stage and not block else 1))
            channels = 4 * width
        layers.append(nn.Sequential(*blocks))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 1000))


class ViT(nn.Module):
    """ViT-B/16 (Dosovitskiy et al. 2021)."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 768, 16, 16)
        self.token, self.positions = nn.Parameter(torch.zeros(1, 1, 768)), nn.Parameter(torch.zeros(1, 197, 768))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(768, 12, 3072, 0.0, "gelu", batch_first=True, norm_first=True) for _ in range(12)
        )
        self.norm, self.head = nn.LayerNorm(768), nn.Linear(768, 1000)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x)[:, 0])


def test_resnet50():
    counts = count(resnet50, (1, 3, 224, 224), backward=False)
    assert counts.macs == 4_089_184_256
    assert counts.flops == 8_178_368_512
    assert counts.parameters == Parameters(trainable=25_557_032, buffers=53_173)


def test_vit():
    counts = count(ViT, (1, 3, 224, 224))
    assert counts.macs == 17_563_828_224
    assert counts.parameters.total == 86_567_656
    assert counts.forward.products == 12 * 2 * 197**2 * 768
    assert counts.backward.products == 12 * 5 * 197**2 * 768


def test_gpt2():
    transformers = pytest.importorskip("transformers")
    os.environ["HF_HUB_OFFLINE"] = "1"
    config = transformers.GPT2Config(use_cache=False)
    counts = count(lambda: transformers.GPT2LMHeadModel(config), {"input_ids": "1x512:int(50257)"}, backward=False)
    assert round(counts.macs / 1e9, 1) == 68.1
    assert counts.parameters.total == 124_439_808
    assert counts.parameters.tied == counts["lm_head"].parameters.total == 50257 * 768
    assert counts["transformer.h.3"].own_parameters.total == 0


def test_llama_7b():
    transformers = pytest.importorskip("transformers")
    os.environ["HF_HUB_OFFLINE"] = "1"
    config = transformers.LlamaConfig(use_cache=False)
    counts = count(lambda: transformers.LlamaForCausalLM(config), {"input_ids": "1x512:int(32000)"}, backward=False)
    linear = 32 * (4 * 4096**2 + 3 * 4096 * 11008) + 32000 * 4096
    assert counts.forward.weights == 512 * linear
    assert round(2 * counts.forward.weights / 1e12, 2) == 6.77
    assert round(2 * counts.forward.products / 1e12, 3) == 0.137
    assert counts.parameters.total == linear + 32000 * 4096 + 65 * 4096


def test_the_two_constructions_of_a_bottleneck():
    plain, split = count(Bottleneck, "1x256x14x14"), count(functools.partial(Bottleneck, paths=32, width=4), "1x256x14x14")
    assert (plain.parameters.total, split.parameters.total) == (213_504, 78_592)
    assert plain.macs == 196 * (256 * 128 + 9 * 128 * 128 + 128 * 256)
    assert split.macs == 196 * 32 * (256 * 4 + 9 * 4 * 4 + 4 * 256)


def test_layers_in_a_plain_list_belong_to_no_optimizer():
    from initio.examples.split_transform_merge import Model

    counts = count(Model, "1x256x14x14")
    assert counts.parameters.loose == 78_592
    assert counts.parameters.trainable == 512
    assert counts.parameters.frozen == 0


class Stack(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.blocks = nn.Sequential(*(nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(3)))
        self.head = nn.Linear(width, 4)

    def forward(self, x):
        return self.head(self.blocks(x))


def test_the_tree_adds_up():
    counts = count(Stack, (5, 8))
    for phase in ("forward", "backward"):
        assert sum((getattr(module, f"own_{phase}") for module in counts.modules), start=type(counts.forward)()) == getattr(counts, phase)
        for name in ("macs", "entries", "moved"):
            assert (
                sum(getattr(op.work, name) for op in counts.ops if op.phase == phase) == getattr(getattr(counts, phase), name)
                or name == "moved"
            )
    assert sum(module.own_saved for module in counts.modules) == counts.memory.saved
    assert counts["blocks"].forward.macs == 3 * 5 * 64
    assert counts["blocks.1.0"].inputs == ((5, 8),)
    assert counts["head"].outputs == ((5, 4),)
    assert counts["blocks"].calls == 1
    with pytest.raises(KeyError, match=r"blocks\.1"):
        counts["blocks.9"]


def test_a_module_called_twice_works_twice():
    class Twice(Stack):
        def forward(self, x):
            return self.head(self.blocks(self.blocks(x)))

    once, twice = count(Stack, (5, 8)), count(Twice, (5, 8))
    assert twice["blocks"].forward.macs == 2 * once["blocks"].forward.macs
    assert twice.parameters == once.parameters


def test_an_instance_costs_what_its_factory_costs_and_stays_as_it_was():
    model = Stack()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert count(model, (5, 8)).to_dict()["modules"] == count(Stack, (5, 8)).to_dict()["modules"]
    assert all(bool((model.state_dict()[name] == tensor).all()) for name, tensor in before.items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_polynomials():
    counts = count(Stack, (5, 8), symbolic=["batch"])
    assert str(counts.symbolic["forward.macs"]) == "224·batch"
    assert str(counts.symbolic["blocks.0:forward.macs"]) == "64·batch"
    assert counts.symbolic["forward.flops"](batch=1000) == 448_000
    encoder = functools.partial(nn.TransformerEncoderLayer, 16, 4, 32, 0.0, batch_first=True)
    formula = count(encoder, "2x24x16", symbolic=["batch", "seq"]).symbolic["forward.macs"]
    assert str(formula) == "32·batch·seq² + 2,048·batch·seq"
    assert formula(batch=3, seq=1000) == count(encoder, "3x1000x16", backward=False).macs
    images = count(nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.AdaptiveAvgPool2d(1)), "2x3x64x64", symbolic=["size"])
    assert str(images.symbolic["forward.macs"]) == "24·size²"


@pytest.mark.parametrize(
    "build, inputs, names, said",
    [
        (Stack, (5, 8), ["depth"], "batch, seq, size"),
        (Stack, (5, 8), ["seq"], "no input has one"),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 7, 7, padding=3), nn.Conv2d(4, 4, 3)), "1x3x65x65", ["size"], "polynomials of size"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(48, 4)), "2x3x4x4", ["size"], "fixes"),
        (Stack, torch.ones(5, 8), ["batch"], "tensor with values"),
    ],
)  # fmt: skip
def test_what_is_no_polynomial_is_refused(build, inputs, names, said):
    with pytest.raises(InitioError, match=said):
        count(build, inputs, symbolic=names)


def test_bad_input():
    with pytest.raises(InitioError, match=r"aten\.addmm\.default of 8, 5x9, 8x8"):
        count(Stack, (5, 9))
    with pytest.raises(InitioError, match="bfloat16"):
        count(Stack, (5, 8), autocast="int8")


def test_json():
    data = json.loads(count(Stack, (5, 8)).to_json())
    assert data["schema"] == "initio.counts/1"
    assert data["forward"]["flops"] == 2 * data["forward"]["macs"]
    assert data["modules"][0]["parameters"]["total"] == 3 * 72 + 36
    assert data["memory"]["training_adam"] > data["memory"]["training_sgd"]
