"""What plans promise, on the real models: every module's second moment within a factor 1.1 of its target, or within sampling error."""

import math
import os

import pytest
from torch import nn

import initio
from initio.core.inputs import parse
from initio.init import solve
from zoo import MLP, NETWORKS

os.environ.setdefault("HF_HUB_OFFLINE", "1")


def encoder():
    layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)


def gpt2():
    transformers = pytest.importorskip("transformers", reason="builds a GPT-2 from its configuration")
    sizes = {"vocab_size": 500, "n_positions": 32, "n_embd": 64, "n_layer": 2, "n_head": 4, "bos_token_id": 0, "eos_token_id": 0}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0))


CASES = {
    "resnet": (NETWORKS["resnet"].build, list(NETWORKS["resnet"].inputs)),
    "no_norms": (NETWORKS["plain_convnet"].build, list(NETWORKS["plain_convnet"].inputs)),
    "unet": (NETWORKS["unet"].build, list(NETWORKS["unet"].inputs)),
    "tanh": (lambda: MLP(nn.Tanh, 20, 128), "64x128"),
    "post_norm": (encoder, "16x16x64"),
    "cross_attention": (NETWORKS["transformer"].build, list(NETWORKS["transformer"].inputs)),
    "gpt2": (gpt2, [parse("input_ids=8x32:int(500)")]),
}


@pytest.mark.parametrize("target", ["forward", "residual"])
@pytest.mark.parametrize("name", CASES)
def test_every_module_reaches_its_target_or_says_why_not(name, target):
    factory, inputs = CASES[name]
    plan = solve(factory, inputs, target)
    assert len(plan.wanted) >= len(plan.gains) / 2
    missed = [path for path, wanted in plan.wanted.items() if abs(math.log(plan.after[path].second / wanted)) > math.log(1.1)]
    assert set(missed) <= set(plan.unreached)
    measured = initio.measure(lambda: plan.apply_(factory()), inputs, draws=8)
    for path in plan.wanted:
        got, predicted = measured.outputs[path, 0, 0], plan.after[path].second
        assert abs(math.log(got.second / predicted)) < math.log(1.1) or abs(got.second - predicted) < 4 * got.error, (path, got)
