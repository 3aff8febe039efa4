"""`derive` on networks as they are: repeated blocks folded, every step verified or said not to be, in little time."""

import time

import pytest
import sympy as sp
import torch
from torch import nn

import initio


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def resnet18():
    return pytest.importorskip("torchvision", reason="resnet18 is torchvision's").models.resnet18, "2x3x224x224"


def vit_b_16():
    return pytest.importorskip("torchvision", reason="vit_b_16 is torchvision's").models.vit_b_16, "1x3x224x224"


def gpt2():
    transformers = pytest.importorskip("transformers", reason="the GPT-2 blocks are those of transformers")
    return lambda: transformers.GPT2Model(transformers.GPT2Config(n_embd=128, n_head=4, n_layer=12)), "input_ids=2x64:int(50257)"


def encoder():
    def factory():
        return nn.TransformerEncoder(nn.TransformerEncoderLayer(128, 4, 512, batch_first=True), 12, enable_nested_tensor=False)

    return factory, "4x32x128"


@pytest.mark.parametrize("network, blocks", [(resnet18, 5), (vit_b_16, 24), (gpt2, 24), (encoder, 24)])
def test_whole_networks(network, blocks, record_property):
    factory, inputs = network()
    begin = time.process_time()
    derivation = initio.derive(factory, inputs)
    record_property("cpu_seconds", round(time.process_time() - begin, 1))
    assert not derivation.refuted, [str(step.verification) for step in derivation.refuted]
    for title in ("Parameters of each layer", "Multiply", "Layer by layer", "The product", "What makes"):
        assert derivation[title].verified, derivation[title].verification
    drawn = derivation["The distribution"].verification.status
    assert drawn == ("definition" if network is gpt2 else "verified")  # GPT-2 draws with one deviation, whatever the fan-in
    assert f"R = {blocks} skips" in derivation["Paths"].text
    for step in derivation:
        assert step.verification.how or step.verification.status == "definition"
    if network is not resnet18:  # twelve equal blocks: one formula for all
        assert len(derivation["Layer by layer"].formulas) <= 10
        assert "ℓ = 0, …, 1" in derivation["Layer by layer"].text
        assert derivation["The product"].formulas[0].rhs.has(sp.Product)
    page = derivation.render("html")
    assert page.count("<math") == sum(len(step.formulas) for step in derivation)
    assert "http" not in page
