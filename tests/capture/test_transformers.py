"""Records of small transformers models compute what the models compute."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from capture.agreement import agree
from capture.replaying import ids
from initio.capture.program import record
from initio.core.distribution import Distribution
from initio.core.inputs import InputSpec

transformers: Any = pytest.importorskip("transformers")

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "vocab_size": 40,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "head_dim": 4,
}
T5 = {
    "d_model": 16,
    "d_kv": 4,
    "d_ff": 24,
    "num_layers": 2,
    "num_heads": 4,
    "vocab_size": 40,
    "decoder_start_token_id": 0,
    "dropout_rate": 0.0,
}
MODELS = {
    "gpt2": ("GPT2LMHeadModel", {"n_embd": 16, "n_layer": 2, "n_head": 4, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}),
    "llama": ("LlamaForCausalLM", {}),
    "bert": ("BertForMaskedLM", {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}),
    "qwen2": ("Qwen2ForCausalLM", {}),
    "mamba": ("MambaForCausalLM", {"state_size": 4, "time_step_rank": 2}),
    "t5": ("T5ForConditionalGeneration", T5),
}


def build(name: str) -> tuple[nn.Module, dict[str, Any]]:
    torch.manual_seed(0)
    cls, extra = MODELS[name]
    kind = getattr(transformers, cls)
    config = kind.config_class(**(extra if name == "t5" else {**SMALL, **extra}))
    inputs: dict[str, Any] = {"input_ids": ids(40, 2, 6)}
    if name == "t5":
        inputs["decoder_input_ids"] = ids(40, 2, 5)
    elif name != "mamba":
        inputs["attention_mask"] = InputSpec((2, 6), "int64", Distribution("constant", {"value": 1.0}, (2, 6)))
    return kind(config).double(), inputs


@pytest.mark.parametrize("name", MODELS)
def test_replay_equals_real_run(name: str) -> None:
    model, inputs = build(name)
    recorded = agree(model, (), inputs, tolerance=1e-6)  # norms and rotary tables of these models work in single precision inside
    assert not recorded.notes
    assert "logits" in [o.name for o in recorded.outputs]
    assert all(n.call >= 0 for n in recorded.nodes if "Backward" in n.function)


def test_loss_of_the_model_itself() -> None:
    model, inputs = build("gpt2")
    recorded = record(model, (), {**inputs, "labels": ids(40, 2, 6)}, loss="model")
    assert recorded.crash is None
    assert recorded.loss is not None
    assert recorded.values[recorded.loss].shape == ()
    logits = next(o for o in recorded.outputs if o.name == "logits")
    assert logits.cotangent is not None
