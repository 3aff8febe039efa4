"""Laws read from recorded constructions, against tensors that the same constructors really drew."""

from __future__ import annotations

import copy
import math
import random
import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from initio.capture.initializers import construct, describe, sample_parameter
from initio.core.distribution import Distribution, Part

init = nn.init


def mismatches(name: str, law: Distribution, draws: list[Tensor]) -> list[str]:
    """Where real draws of one tensor contradict its law, beyond Monte Carlo error (six standard errors)."""
    if law.shape != tuple(draws[0].shape):
        return [f"{name}: shape {law.shape}, drawn {tuple(draws[0].shape)}"]
    if law.family == "parts":
        found = [] if sum(part.size for part in law.parts) == draws[0].numel() else [f"{name}: parts do not cover it"]
        for part in law.parts:
            inside = tuple(slice(*triple) for triple in part.index)
            found += mismatches(f"{name}{part.index}", part.distribution, [draw[inside] for draw in draws])
        return found
    x = torch.stack([draw.detach().double() for draw in draws]).flatten()
    if law.family == "constant":
        value = torch.tensor(law.parameters["value"]).to(draws[0].dtype).double()
        return [] if bool((x == value).all()) else [f"{name}: {law}, drawn {x.min():.4g} to {x.max():.4g}"]
    n, mean, variance = x.numel(), x.mean().item(), x.var(correction=0).item()
    kurtosis = ((x - mean) ** 4).mean().item() / variance**2
    half = draws[0].element_size() < 4
    found: list[str] = []
    if law.family in ("values", "orthogonal"):
        if not math.isclose(x.square().mean().item(), law.second, rel_tol=1e-4):
            found.append(f"{name}: {law} has second moment {law.second:.6g}, drawn {x.square().mean():.6g}")
        if law.family == "values" and not math.isclose(mean, law.mean, rel_tol=1e-5, abs_tol=1e-6):
            found.append(f"{name}: {law}, drawn mean {mean:.6g}")
        return found
    # A program's moments were themselves measured on at least about as many draws: √2 in the error.
    widths = 6 * (1.5 if law.family == "program" else 1)
    if abs(mean - law.mean) > widths * math.sqrt(law.variance / n) + (2e-3 * abs(law.mean) if half else 1e-6 * abs(law.mean)):
        found.append(f"{name}: {law} has mean {law.mean:.4g}, drawn {mean:.4g}")
    if abs(variance - law.variance) > law.variance * (widths * math.sqrt(max(kurtosis - 1, 0.5) / n) + (2e-2 if half else 1e-5)):
        found.append(f"{name}: {law} has variance {law.variance:.4g}, drawn {variance:.4g}")
    expected = {"normal": 3.0, "uniform": 1.8}.get(law.family)
    if expected is not None and n > 2000 and abs(kurtosis - expected) > 8 * math.sqrt(96 / n):
        found.append(f"{name}: {law} has kurtosis {expected}, drawn {kurtosis:.3f}")
    if law.family in ("uniform", "truncated_normal"):
        slack = 1e-2 * law.std if half else 1e-5 * law.std
        if x.min() < law.parameters["low"] - slack or x.max() > law.parameters["high"] + slack:
            found.append(f"{name}: {law}, drawn {x.min():.4g} to {x.max():.4g}")
    return found


def agrees(factory: Callable[[], nn.Module], draws: int = 8) -> dict[str, Distribution]:
    """Assert that every tensor of `draws` real models follows the recorded laws, and return them."""
    construction = construct(factory)
    assert construction.origin == "drawn"
    tensors: dict[str, list[Tensor]] = {}
    with torch.random.fork_rng():
        for seed in range(draws):
            torch.manual_seed(seed)
            model = factory()
            for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
                tensors.setdefault(name, []).append(tensor.detach().clone())
    assert set(tensors) == set(construction.distributions)
    assert all(p.is_meta for p in construction.model.parameters())
    found = [line for name, drawn in tensors.items() for line in mismatches(name, construction.distributions[name], drawn)]
    assert not found, "\n".join(found)
    for name, value in construction.initial.items():
        np.testing.assert_array_equal(value, tensors[name][0].numpy())
    return construction.distributions


def edited(edit: Callable[[nn.Linear], object], inputs: int = 64, outputs: int = 48) -> Callable[[], nn.Module]:
    """A constructor of a linear map whose weights `edit` changes."""

    def factory() -> nn.Module:
        layer = nn.Linear(inputs, outputs)
        with torch.no_grad():
            edit(layer)
        return layer

    return factory


def orthogonal_by_qr(m: nn.Linear) -> None:
    q, r = torch.linalg.qr(torch.randn(64, 64))
    q *= r.diagonal().sign()
    m.weight.data.copy_(q[:48] * 1.5)


def timm_truncated(m: nn.Linear) -> None:
    m.weight.uniform_(2 * 0.0228 - 1, 2 * 0.9772 - 1).erfinv_().mul_(0.02 * math.sqrt(2)).add_(0.1).clamp_(0.06, 0.14)


EDITS: dict[str, tuple[Callable[[nn.Linear], object], str]] = {
    "kaiming_uniform": (lambda m: init.kaiming_uniform_(m.weight), "uniform"),
    "kaiming_normal": (lambda m: init.kaiming_normal_(m.weight, mode="fan_out"), "normal"),
    "xavier_uniform": (lambda m: init.xavier_uniform_(m.weight, gain=2.0), "uniform"),
    "xavier_normal": (lambda m: init.xavier_normal_(m.weight), "normal"),
    "trunc_normal": (lambda m: init.trunc_normal_(m.weight, mean=0.1, a=-0.5, b=1.0), "truncated_normal"),
    "trunc_normal one tail": (lambda m: init.trunc_normal_(m.weight, a=1.5, b=3.0), "truncated_normal"),
    "trunc_normal by erfinv": (timm_truncated, "truncated_normal"),
    "orthogonal": (lambda m: init.orthogonal_(m.weight, gain=1.3), "orthogonal"),
    "orthogonal by qr": (orthogonal_by_qr, "orthogonal"),
    "sparse": (lambda m: init.sparse_(m.weight, 0.3, std=0.5), "program"),
    "eye": (lambda m: init.eye_(m.weight), "values"),
    "ones": (lambda m: init.ones_(m.weight), "constant"),
    "affine image": (lambda m: m.weight.normal_().mul_(0.5).add_(1).div_(2).neg_(), "normal"),
    "assigned data": (lambda m: setattr(m.weight, "data", torch.randn(48, 64) * 0.02 + 1), "normal"),
    "assigned numpy": (lambda m: setattr(m.weight, "data", torch.from_numpy(np.arange(3072.0).reshape(48, 64)).float()), "values"),
    "slices": (lambda m: (m.weight[:, :10].zero_(), m.weight[10:20, ::3].fill_(3), m.weight[5].normal_()), "parts"),
    "orthogonal chunks": (lambda m: [init.orthogonal_(w) for w in m.weight.data.chunk(4, 0)], "parts"),
    "equal chunks": (lambda m: [init.normal_(w) for w in m.weight.data.chunk(4, 1)], "normal"),
    "fill_diagonal": (lambda m: m.weight.fill_diagonal_(2.0), "parts"),
    "rows by index": (lambda m: m.weight.__setitem__([0, 5, 7], 0.0), "parts"),
    "random mask": (lambda m: m.weight.mul_(torch.rand(48, 64) > 0.5), "program"),
    "clamped normal": (lambda m: m.weight.normal_().clamp_(-0.5, 0.5), "program"),
    "sum of two": (lambda m: m.weight.normal_().add_(torch.rand(48, 64)), "program"),
    "divided by its deviation": (lambda m: m.weight.div_(m.weight.std()), "program"),
    "decision by value": (lambda m: m.weight.fill_(7) if m.weight.mean() > -5 else None, "constant"),
    "transposed": (lambda m: (init.normal_(m.weight.T), m.weight.T[:5].zero_()), "parts"),
    "regrouped": (lambda m: m.weight.view(4, 12, 64)[1, 3:5].fill_(1.0), "parts"),
    "half": (lambda m: m.half(), "uniform"),
    "float and back": (lambda m: m.double().float(), "uniform"),
}


@pytest.mark.parametrize("name", EDITS)
def test_edited_weight(name: str) -> None:
    edit, family = EDITS[name]
    assert agrees(edited(edit))["weight"].family == family


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    model[1].weight = model[0].weight
    return nn.Sequential(model, copy.deepcopy(model))


def state_dict() -> nn.Module:
    source, target = nn.Linear(64, 48), nn.Linear(64, 48)
    init.normal_(source.weight)
    target.load_state_dict(source.state_dict())
    return target


def gates() -> nn.Module:
    model = nn.GRU(16, 32, 2)
    for name, p in model.named_parameters():
        if "weight_hh" in name:
            for i in range(3):
                init.orthogonal_(p[i * 32 : (i + 1) * 32])
        elif "bias" in name:
            with torch.no_grad():
                p.zero_()[32:64] = 1
    return model


class Loose(nn.Module):
    """Parameters and buffers made without layers."""

    def __init__(self) -> None:
        super().__init__()
        self.noise = nn.Parameter(torch.randn(64, 64) * 0.02)
        self.large = nn.Parameter(torch.rand(700, 700) * 2 - 1)
        self.log_uniform = nn.Parameter(torch.exp(torch.rand(700, 700) * 3 - 5))
        self.joined = nn.Parameter(torch.cat([torch.randn(50, 4), torch.zeros(50, 4)], 1))
        self.decay = nn.Parameter(torch.log(torch.arange(1, 17.0)).repeat(4, 1))
        self.scalar = nn.Parameter(torch.tensor(0.5))
        self.lower = nn.Parameter(torch.tril(torch.randn(60, 60)))
        self.empty = nn.Parameter(torch.zeros(0, 3))
        self.literal = nn.Parameter(torch.empty(3))
        self.literal.data = torch.tensor([1.0, 2.0, 3.0], device=self.literal.device)
        self.register_buffer("mask", torch.tril(torch.ones(600, 600)).bool())
        table = torch.empty(2000, 512)
        table[:, 0::2] = torch.sin(torch.arange(2000.0)[:, None])
        table[:, 1::2] = 1.0
        self.register_buffer("table", table)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "conv": lambda: nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ConvTranspose1d(16, 8, 3)),
    "embedding": lambda: nn.Embedding(100, 64, padding_idx=0),
    "embedding, padding inside": lambda: nn.Embedding(100, 64, padding_idx=50),
    "attention": lambda: nn.MultiheadAttention(64, 4, add_bias_kv=True, kdim=32, vdim=16),
    "lstm": lambda: nn.LSTM(32, 48, 2, bidirectional=True),
    "gates": gates,
    "tied and copied": tied,
    "state dict": state_dict,
    "encoder": lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(64, 2, 128, batch_first=True), 2),
    "loose": Loose,
    "bfloat16": lambda: nn.Linear(64, 48, dtype=torch.bfloat16),
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Conv1d(64, 48, 5)),
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(64, 48)),
    "skip_init": lambda: nn.utils.skip_init(nn.Linear, 64, 48).apply(lambda m: m.reset_parameters()),  # pyright: ignore
}


@pytest.mark.parametrize("name", MODELS)
def test_models(name: str) -> None:
    agrees(MODELS[name], draws=2 if name == "loose" else 8)


def test_dirac() -> None:
    def factory() -> nn.Module:
        conv = nn.Conv2d(8, 8, 3)
        init.dirac_(conv.weight, groups=2)
        return conv

    assert agrees(factory)["weight"].family == "values"


def test_the_comparison_has_power() -> None:
    torch.manual_seed(0)
    draws = [torch.randn(48, 64) for _ in range(8)]
    right = Distribution("normal", {"mean": 0.0, "std": 1.0}, (48, 64))
    assert not mismatches("w", right, draws)
    assert mismatches("w", Distribution("normal", {"mean": 0.0, "std": 1.04}, (48, 64)), draws)
    assert mismatches("w", Distribution("normal", {"mean": 0.05, "std": 1.0}, (48, 64)), draws)
    assert mismatches("w", Distribution("uniform", {"low": -(3**0.5), "high": 3**0.5}, (48, 64)), draws)


def test_custom_kaiming_names_saved_at_import(monkeypatch: pytest.MonkeyPatch) -> None:
    saved = init.trunc_normal_
    monkeypatch.setattr(init, "trunc_normal_", lambda *a, **k: pytest.fail("the saved reference was not used"))
    laws = agrees(edited(lambda m: saved(m.weight, std=0.02)))
    assert laws["weight"].parameters == {"mean": 0.0, "std": 0.02, "low": -2.0, "high": 2.0}


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bert", "mamba", "t5", "rwkv"])
def test_transformers(kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    small = {"vocab_size": 200, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    special = {
        "gpt2": {"vocab_size": 200, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64},
        "t5": {"vocab_size": 200, "d_model": 64, "d_ff": 128, "d_kv": 16, "num_layers": 2, "num_heads": 4},
    }

    def factory() -> nn.Module:
        return transformers.AutoModel.from_config(transformers.AutoConfig.for_model(kind, **special.get(kind, small)))

    agrees(factory, draws=3)


def test_sources_are_constructor_lines() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)  # the inner line

    construction = construct(lambda: nn.Sequential(Block(), nn.TransformerEncoderLayer(8, 2, 16)))  # the outer line
    assert construction.sources["0.inner.weight"].text == "self.inner = nn.Linear(4, 4)  # the inner line"
    assert construction.module_sources["0"].text.endswith("# the outer line")
    assert construction.sources["1.linear1.weight"].text.endswith("# the outer line")
    assert construction.sources["1.linear1.weight"].file == __file__


def test_known_buffers_keep_their_values() -> None:
    model = construct(Loose).model
    assert not model.get_buffer("mask").is_meta
    torch.testing.assert_close(model.get_buffer("table"), Loose().get_buffer("table"))


def test_a_copy_without_storage_has_the_order_that_was_asked_for() -> None:
    class Windows(nn.Module):
        """The mask of shifted windows: made where a parameter without storage is, permuted, and laid out again."""

        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(1000, 1000))
            image = torch.zeros(1, 8, 8, 1, device=self.table.device)
            image[:, 4:] = 1.0
            windows = image.view(1, 2, 4, 2, 4, 1).permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, 4 * 4)
            self.register_buffer("mask", windows - windows[:1])

    buffer = construct(Windows).model.get_buffer("mask")
    assert tuple(buffer.shape) == (4, 16)
    assert buffer.is_contiguous()


def test_nothing_is_left_patched_and_generators_are_restored() -> None:
    before = (nn.Parameter.__new__, nn.Module.__init__, nn.Module.__setstate__, init.orthogonal_.__code__, init.trunc_normal_.__defaults__)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()

    class BrokenError(Exception):
        pass

    def broken() -> nn.Module:
        nn.Linear(3, 3)
        np.random.rand()
        random.random()
        raise BrokenError("as it was")

    with pytest.raises(BrokenError, match=r"^as it was$"):
        construct(broken)
    construct(lambda: nn.Linear(3, 3))
    after = (nn.Parameter.__new__, nn.Module.__init__, nn.Module.__setstate__, init.orthogonal_.__code__, init.trunc_normal_.__defaults__)
    assert before == after
    assert torch.equal(states[0], torch.get_rng_state())
    assert (states[1] == np.random.get_state()[1]).all()
    assert states[2] == random.getstate()


def test_other_threads_draw_as_ever() -> None:
    started, finish, seen = threading.Event(), threading.Event(), list[Tensor]()

    def other() -> None:
        started.wait(10)
        layer = nn.Linear(8, 8)
        init.orthogonal_(layer.weight)
        seen.append(layer.weight.detach())
        finish.set()

    def factory() -> nn.Module:
        started.set()
        assert finish.wait(10)
        return nn.Linear(2, 2)

    thread = threading.Thread(target=other)
    thread.start()
    construct(factory)
    thread.join()
    torch.testing.assert_close(seen[0] @ seen[0].T, torch.eye(8), atol=1e-5, rtol=0)


def test_user_errors_keep_their_text() -> None:
    def copied() -> nn.Module:
        layer = nn.Linear(3, 4)
        with torch.no_grad():
            layer.weight.copy_(torch.ones(5, 7))
        return layer

    with pytest.raises(RuntimeError, match="size"):
        construct(copied)
    with pytest.raises(ValueError, match="2 or more dimensions"):
        construct(edited(lambda m: init.orthogonal_(m.bias)))
    with pytest.raises(TypeError, match=r"must return a torch\.nn\.Module, but it returned int"):
        construct(lambda: 3)  # pyright: ignore[reportArgumentType, reportReturnType]


def test_uninitialised_and_lazy_are_named() -> None:
    construction = construct(lambda: nn.Sequential(nn.ParameterList([nn.Parameter(torch.empty(3))]), nn.LazyLinear(4)))
    assert any(note.startswith("0.0 is never initialised") for note in construction.notes)
    assert any(note.startswith("1.weight is lazy") for note in construction.notes)
    assert "1.weight" not in construction.distributions


def test_described_by_values() -> None:
    layer = nn.Linear(30, 20)
    init.ones_(layer.bias)
    built = describe(layer)
    assert built.origin == "values"
    assert built.model is layer
    assert built.distributions["bias"].parameters == {"value": 1.0}
    assert built.distributions["weight"].std == pytest.approx(layer.weight.double().std(correction=0).item(), rel=1e-6)
    assert construct(lambda: layer).origin == "values"
    with pytest.raises(ValueError, match="on the meta device and have no values"):
        describe(nn.Linear(2, 2, device="meta"))


def test_huge_models_cost_nothing() -> None:
    construction = construct(lambda: nn.Sequential(*(nn.Linear(1 << 20, 1 << 20) for _ in range(4))))
    assert construction.distributions["3.weight"].parameters["high"] == pytest.approx(2.0**-10)


FAMILIES = [
    Distribution("constant", {"value": 2.0}, (40, 50)),
    Distribution("normal", {"mean": 1.0, "std": 0.5}, (40, 50)),
    Distribution("uniform", {"low": -1.0, "high": 3.0}, (40, 50)),
    Distribution("truncated_normal", {"mean": 0.0, "std": 1.0, "low": -0.5, "high": 2.0}, (40, 50)),
    Distribution("orthogonal", {"gain": 2.0}, (40, 50)),
    Distribution(
        "parts",
        {},
        (4, 500),
        (
            Part(((0, 1, 1), (0, 500, 1)), Distribution("constant", {"value": 0.0}, (1, 500))),
            Part(((1, 4, 1), (0, 500, 1)), Distribution("normal", {"mean": 0.0, "std": 1.0}, (3, 500))),
        ),
    ),
]


@pytest.mark.parametrize("law", FAMILIES, ids=lambda law: law.family)
def test_sample_parameter(law: Distribution) -> None:
    generator = torch.Generator().manual_seed(0)
    draws = [sample_parameter(law, dtype=torch.float32, generator=generator) for _ in range(8)]
    assert not mismatches("w", law, draws)
    if law.family == "constant":
        return
    assert not torch.equal(draws[0], draws[1])
