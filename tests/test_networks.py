"""The networks that other tests build on: they run, every parameter is reached, and the closed forms hold."""

from __future__ import annotations

import importlib.util
import math

import pytest
import torch

from initio.interpreters.sample import measure
from zoo import MLP, NETWORKS, LinearStack, ResidualMLP, normal, transformer

UNREACHED = {"wavenet": {"residual.7.weight", "residual.7.bias"}}


SOME = [name for name in NETWORKS if not name.startswith(("mlp50", "autoencoder"))]


@pytest.mark.parametrize("name", [*SOME, "mlp50_glu", "mlp50_prelu", "mlp50_selu_unit"])
def test_every_network_runs_and_every_parameter_is_reached(name):
    network = NETWORKS[name]
    dtype = torch.float64 if network.dtype == "float64" else None
    m = measure(network.build, list(network.inputs), draws=1, dtype=dtype)
    assert all(math.isfinite(e.second) for table in (m.outputs, m.cotangents, m.gradients) for e in table.values())
    assert set(m.unreached) == UNREACHED.get(name, set())


def test_the_linear_stack_reaches_its_floor_of_biases():
    m = measure(lambda: LinearStack(6, 128, 128), [normal(128, 128)], draws=16)
    last = m.outputs["5", 0, 0]
    floor = 1 / (2 * 128)
    assert abs(last.second - (floor + 3**-6 * (1 - floor))) < 4 * last.error


def test_the_relu_stack_follows_its_recursion():
    m = measure(lambda: MLP(torch.nn.ReLU, 4, 256), [normal(64, 256)], draws=16)
    q = 1.0
    for layer in range(4):
        q = ((q / 2 if layer else q) + 1 / 256) / 3
        estimate = m.outputs[f"{layer}.0", 0, 0]
        assert abs(estimate.second - q) < 5 * estimate.error + 0.01 * q


def test_skips_keep_the_gradient_that_the_plain_network_loses():
    residual, plain = (measure(lambda skip=skip: ResidualMLP(8, skip=skip), [normal(32, 64)], draws=4) for skip in (True, False))
    assert residual.gradients["first.weight"].rms > 20 * plain.gradients["first.weight"].rms


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")
def test_a_transformer_is_built_from_its_configuration():
    model = transformer("gpt2", "GPT2LMHeadModel", n_embd=32, n_layer=1, n_head=2, vocab_size=50)
    assert model.lm_head.weight is model.transformer.wte.weight
