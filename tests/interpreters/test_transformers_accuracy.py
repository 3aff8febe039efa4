"""Whole transformers: predicted against measured root mean squares of activations, cotangents and gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from initio.capture.initializers import construct
from initio.capture.program import record
from initio.core.distribution import Distribution
from initio.core.inputs import InputSpec
from initio.core.moments import Moments
from initio.interpreters.propagate import propagate
from initio.interpreters.sample import measure


def _misses(factory: Callable[[], nn.Module], inputs: list[InputSpec], draws: int = 6) -> dict[str, tuple[int, list[str]]]:
    """Kind of node → (count, the nodes outside of its bar and of three standard errors)."""
    made = construct(factory)
    seen = record(made.model, [i for i in inputs if not i.name], {i.name: i for i in inputs if i.name}, construction=made)
    claims = propagate(seen)
    drawn = measure(factory, inputs, draws=draws)
    rows: list[tuple[str, float, str, Any, Any]] = []
    for call in seen.calls:
        for o, (value, cotangent) in enumerate(zip(call.outputs, call.cotangents or [None] * len(call.outputs), strict=True)):
            key = (call.module, call.index, o)
            rows.append(("forward", 0.05, call.module, claims.get(value), drawn.outputs.get(key)))
            rows.append(("cotangent", 0.1, call.module, None if cotangent is None else claims.get(cotangent), drawn.cotangents.get(key)))
    for p in seen.parameters:
        if not p.buffer and p.gradient is not None:
            rows.append(("gradient", 0.1, p.name, claims.get(p.gradient), drawn.gradients.get(p.name)))
    scale = max(e.rms for kind, _, _, _, e in rows if kind == "gradient" and e is not None)
    out: dict[str, tuple[int, list[str]]] = {}
    for kind, bar, name, claim, estimate in rows:
        if estimate is None:
            continue
        count, bad = out.get(kind, (0, []))
        if not isinstance(claim, Moments):
            bad = [*bad, f"{name}: {claim}"]
        else:
            predicted = math.sqrt(max(claim.total_second, 0.0))
            zero = max(predicted, estimate.rms) < 1e-5 * scale and kind == "gradient"  # rounding of sums that vanish
            wrong = abs(predicted - estimate.rms) > bar * estimate.rms and abs(claim.total_second - estimate.second) > 3 * estimate.error
            if wrong and not zero:
                bad = [*bad, f"{name}: predicted {predicted:.5g}, measured {estimate.rms:.5g}"]
        out[kind] = (count + 1, bad)
    return out


def _ids(*shape: int, name: str = "input_ids") -> InputSpec:
    return InputSpec(shape, "int64", Distribution("integers", {"low": 0.0, "high": 1000.0}), name)


def _check(found: dict[str, tuple[int, list[str]]]) -> None:
    for kind, (count, bad) in found.items():
        assert len(bad) <= 0.05 * count, f"{len(bad)} of {count} {kind} nodes: {bad}"


@pytest.mark.parametrize("name", ["gpt2", "llama", "neox"])
def test_language_models(name: str) -> None:
    """Causal masks, a tied head (gpt2), rotary halves and a norm written out in parts (llama), packed heads with a partial rotation (neox)."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 512, "vocab_size": 1000}
    factories: dict[str, Callable[[], nn.Module]] = {
        "gpt2": lambda: transformers.GPT2LMHeadModel(
            transformers.GPT2Config(n_embd=256, n_layer=2, n_head=4, vocab_size=1000, n_positions=64, bos_token_id=0, eos_token_id=0)
        ),
        "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, num_key_value_heads=2)),
        "neox": lambda: transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**sizes)),
    }
    torch.manual_seed(0)
    _check(_misses(factories[name], [_ids(4, 32)]))


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(48, 128, bias=False) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (f(x).unflatten(-1, (2, 64)).transpose(1, 2) for f in (self.q, self.k, self.v))
        return torch.softmax(q @ k.transpose(-1, -2) / 8, dim=-1) @ v


def test_tokens_overlap_in_keys_and_values() -> None:
    """64 tokens of 48 features: without the common overlap of keys and values the cotangent of the queries would be a third too small."""
    spec = InputSpec((4, 64, 48), "float32", Distribution("normal", {"mean": 0.0, "std": 1.0}))
    torch.manual_seed(0)
    _check(_misses(_Attention, [spec], draws=12))
