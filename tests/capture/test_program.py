"""The record of one step computes the numbers of a real step, whatever the model does."""

from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from capture.agreement import agree
from capture.replaying import ids, normal
from initio.capture.program import RecordingError, record
from initio.core.distribution import Distribution
from initio.core.inputs import InputSpec
from initio.core.record import Record


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(5, 5) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + torch.relu(layer(x))
        return x


class Writes(nn.Module):
    """In-place operations through views of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(4, 6))
        self.register_buffer("table", torch.randn(5, 6))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        out = torch.zeros(x.shape[0], 5, 6, dtype=x.dtype)
        h = x @ self.w
        for i in range(5):
            out[:, i] = h * (i + 1)
            h = torch.tanh(h)
        y = (out + self.table).clone()
        y.view(-1).mul_(2)
        z = y.transpose(1, 2)
        z[:, 1:3].add_(1.0)
        evens = y[:, ::2]
        y[:, 0].zero_()
        y.masked_fill_(torch.ones(5, 6).tril().bool()[None] == 0, 3.0)
        y.permute(2, 0, 1).mul_(3.0)
        return evens.sum(-1), y, z.relu_()


class Literals(nn.Module):
    """Python numbers that become tensors, and tensors that become Python numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = x[:, [3, 1, 2]] + x[:, [0, 1, 2]]
        z = self.linear(x).clone()
        z[:, [0, 2]] = y[:, :2]
        z[0] = 1.0
        z[[1]] *= 2
        k = x.new_tensor([1.0, 2, 3, 4, 5, 6])
        i = torch.tensor([0, 0, 1], device=x.device)
        assert i.tolist() == [0, 0, 1]
        assert float(k.sum()) == 21.0
        assert i.numpy().sum() == 1
        assert f"{i[2]}" == "1"
        mask = torch.arange(6, device=x.device) > 2
        if mask.any():
            z = z * k
        return z, F.embedding(i, self.linear.weight), x[:, mask], x.masked_fill(mask, 0.0), torch.cat([z, y], 1).split(3, 1)[1]


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = x + checkpoint(self.body, x, use_reentrant=self.reentrant)
        return x


class Loose(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.paths = [nn.Linear(4, 4).double() for _ in range(3)]
        self.heads = {"a": nn.Linear(4, 4).double()}
        self.final = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.final(sum(path(x) for path in self.paths) + self.heads["a"](x))


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * g * x


class Norms(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.b, self.g, self.l, self.r = nn.BatchNorm1d(4), nn.GroupNorm(2, 4), nn.LayerNorm(4), nn.RMSNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.r(self.l(self.g(self.b(self.b(x)))))


class Masked(nn.Module):
    """A mask built from arange, its corner asked for as a Python bool, and a buffer that is written to."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(4, 4)
        self.register_buffer("count", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        t = x.shape[1]
        mask = torch.arange(t)[:, None] >= torch.arange(t)[None]
        assert bool(mask[0, 0])
        assert not bool(mask[0, 1])
        self.count.mul_(0.9).add_(x.detach().mean((0, 1)))
        scores = self.proj(x) @ x.transpose(1, 2)
        return torch.softmax(scores.masked_fill(~mask, float("-inf")), -1) @ x + self.count


def convolutional() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(True), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, 4))


def tied() -> nn.Module:
    model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 10, bias=False))
    model[1].weight = model[0].weight
    return model


MODELS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "mlp": (lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(True), nn.Linear(8, 3)), (normal(2, 4),)),
    "residual": (Residual, (normal(2, 5),)),
    "convolutional": (convolutional, (normal(2, 3, 8, 8),)),
    "writes": (Writes, (normal(2, 4),)),
    "literals": (Literals, (normal(2, 6),)),
    "checkpoint_reentrant": (lambda: Checkpointed(True), (normal(2, 4),)),
    "checkpoint": (lambda: Checkpointed(False), (normal(2, 4),)),
    "loose": (Loose, (normal(2, 4),)),
    "norms": (Norms, (normal(5, 4),)),
    "masked": (Masked, (normal(2, 5, 4),)),
    "tied": (tied, (ids(10, 2, 3),)),
    "dropout": (lambda: nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.3), nn.GELU()), (normal(2, 4),)),
    "transformer": (lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True), 2), (normal(2, 5, 8),)),
    "lstm": (lambda: nn.LSTM(4, 5, 2), (normal(3, 2, 4),)),
    "gru": (lambda: nn.GRU(4, 5, 2, bidirectional=True), (normal(3, 2, 4),)),
    "weight_norm": (lambda: torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), (normal(2, 4),)),
    "spectral_norm": (lambda: torch.nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3)), (normal(2, 4),)),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("train", [True, False])
def test_replay_equals_real_run(name: str, train: bool) -> None:
    torch.manual_seed(0)
    build, args = MODELS[name]
    agree(build().double(), args, train=train)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, y: torch.fft.rfft(x * y).abs().sum(),
        lambda x, y: Double.apply(x) + torch.func.vmap(torch.dot)(x, y)[:, None],
        lambda x, y: {"a": torch.einsum("ij,kj->ik", x, y), "b": (x.std(0), y.cumsum(1))},
        lambda x, y: torch.linalg.vector_norm(x, dim=1) + torch.logsumexp(y, 1),
        lambda x, y: torch.where(x > y, x, 0.0) + x.clamp(min=0.1) ** 2,
        lambda x, y: F.pad(x, (1, 1)).unfold(1, 3, 2).flatten(1),
        lambda x, y: torch.stack(x.unbind(0)).roll(1, 0).chunk(2, 1),
    ],
)
def test_functions(function: Any) -> None:
    agree(function, (normal(3, 8), normal(3, 8)))


LOSSES: dict[str, Any] = {
    "cross_entropy": F.cross_entropy,
    "mse": F.mse_loss,
    "bce_with_logits": F.binary_cross_entropy_with_logits,
    "nll": F.nll_loss,
}


@pytest.mark.parametrize("loss", LOSSES)
def test_losses(loss: str) -> None:
    recorded = agree(Residual().double(), (normal(3, 5),), loss=loss, apply=LOSSES[loss])
    assert recorded.inputs[-1].name == "target"
    assert {n.phase for n in recorded.nodes} == {"forward", "loss", "backward"}
    assert recorded.outputs[0].cotangent is not None
    assert all(n.phase == "loss" for n in recorded.nodes if recorded.loss in n.outputs)


def test_sequence_logits_are_flattened() -> None:
    agree(tied().double(), (ids(10, 2, 3),), loss="cross_entropy", apply=lambda out, target: F.cross_entropy(out.reshape(-1, 10), target))


def test_loss_function_and_model_loss() -> None:
    agree(Residual().double(), (normal(3, 5),), loss=lambda out: out.square().mean(), apply=lambda out: out.square().mean())

    def model(x: Tensor) -> dict[str, Tensor]:
        return {"prediction": x, "aux_loss": x.exp().sum()}

    agree(model, (normal(3, 5),), loss="model", apply=lambda out: out["aux_loss"])


def test_unknown_loss_is_refused() -> None:
    with pytest.raises(RecordingError, match="expected one of cross_entropy, mse"):
        record(Residual(), (normal(3, 5, dtype="float32"),), loss="hinge")


def test_backward_nodes_stand_where_their_forward_did() -> None:
    recorded = record(Residual(), (normal(3, 5, dtype="float32"),))
    produced = {n.module for n in recorded.nodes if n.phase == "forward"}
    for node in recorded.nodes:
        assert node.module in produced
        if node.phase == "backward" and node.op == "aten.mm.default":
            assert node.module.startswith("layers.")
            assert node.source is not None
            assert "relu(layer(x))" in node.source.text
    relus = [n for n in recorded.nodes if n.op == "aten.threshold_backward.default"]
    assert [n.source.text for n in relus if n.source] == ["x = x + torch.relu(layer(x))"] * 3


def test_calls_with_cotangents() -> None:
    recorded = record(Checkpointed(False), (normal(3, 4, dtype="float32"),))
    bodies = [c for c in recorded.calls if c.module == "body"]
    assert [c.index for c in bodies] == [0, 1, 2]
    assert [c.id for c in recorded.calls] == list(range(len(recorded.calls)))
    assert all(c.parent == 0 and c.kind == "Sequential" for c in bodies)
    again = record(Checkpointed(True), (normal(3, 4, dtype="float32"),))
    for record_ in (recorded, again):
        reached = [c.cotangents for c in record_.calls]
        assert all(len(c) == 1 and c[0] is not None for c in reached)
    # The identity path hands the same cotangent to every body.
    assert len({c.cotangents for c in bodies}) == 3


def test_loose_modules_are_named() -> None:
    recorded = record(Loose().double(), (normal(2, 4),))
    parameters = {p.name: p for p in recorded.parameters}
    assert parameters["paths[1].weight"].gradient is not None
    assert not parameters["paths[1].weight"].trainable
    assert parameters["final.weight"].trainable
    assert any("4 modules (first: paths[0])" in note for note in recorded.notes)
    assert "heads['a']" in recorded.modules


def test_tied_parameter_has_one_accumulated_gradient() -> None:
    recorded = record(tied(), (ids(10, 2, 3),))
    (parameter,) = recorded.parameters
    assert parameter.names == ("0.weight", "1.weight")
    producers = recorded.producers()
    assert parameter.gradient is not None
    above = producers[parameter.gradient]
    assert "aten.add.Tensor" in (above.op, producers[above.inputs[0]].op)


class Crashing(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.inner = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "backward":
            y = self.inner(x).exp()
            y.mul_(2)
            return y
        return self.inner(x)


def test_autocast() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 3))

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return self.net(x) @ x[:, :3].T

    recorded = agree(Half(), (normal(2, 4, dtype="float32"),), tolerance=2e-2)
    products = [n for n in recorded.nodes if n.op in ("aten.mm.default", "aten.addmm.default")]
    assert products
    assert {recorded.values[o].dtype for n in products for o in n.outputs if o is not None} == {"bfloat16"}


def test_crash_in_forward_is_recorded() -> None:
    recorded = record(nn.Sequential(nn.Linear(4, 4), Crashing("shape")), (normal(2, 4, dtype="float32"),))
    crash = recorded.crash
    assert crash is not None
    assert (crash.op, crash.module, crash.phase) == ("aten.addmm.default", "1.inner", "forward")
    assert crash.shapes == ((3,), (2, 4), (3, 3))
    assert crash.source is not None
    assert crash.source.text == "return self.inner(x)"
    assert recorded.nodes


def test_crash_in_backward_is_recorded() -> None:
    crash = record(Crashing("backward"), (normal(2, 3, dtype="float32"),)).crash
    assert crash is not None
    assert (crash.phase, crash.op) == ("backward", None)
    assert "inplace operation" in crash.message


def test_crash_of_plain_python() -> None:
    def model(x: Tensor) -> Tensor:
        return {"a": x}["b"]

    crash = record(model, (normal(2),)).crash
    assert crash is not None
    assert (crash.error, crash.op) == ("KeyError", None)
    assert crash.source is not None
    assert crash.source.function == "model"


def test_policy_is_logged() -> None:
    def model(x: Tensor) -> Tensor:
        if (x.sum() > 0) and int(x.argmax()) == 1:
            x = x * 2
        return x[x > 0].sum() + x.nonzero().shape[0]

    recorded = record(model, (normal(2, 100, 100),))
    assert recorded.crash is None
    assert any("True was assumed" in note and "test_program.py" in note for note in recorded.notes)
    assert any("1 was assumed" in note for note in recorded.notes)
    assert any("every entry" in note or "all entries" in note for note in recorded.notes)
    assert any(n.op == "aten.mul.Tensor" and n.phase == "forward" for n in recorded.nodes)


def test_given_integers_are_known() -> None:
    def model(x: Tensor, mask: Tensor) -> Tensor:
        return x * 2 if mask.sum() == 3 else x

    spec = InputSpec((4,), "int64", Distribution("integers", {"low": 0.0, "high": 2.0}, (4,)), data=np.array([1, 1, 1, 0]))
    recorded = record(model, (normal(4), spec))
    assert not recorded.notes
    assert [n.op for n in recorded.nodes if n.phase == "forward"] == ["aten.mul.Tensor"]
    assert recorded.constants[recorded.inputs[1].value].tolist() == [1, 1, 1, 0]


def test_shared_mask_is_kept_once() -> None:
    class Many(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            for _ in range(4):
                mask = torch.ones(64, 64).tril().bool()
                x = x.masked_fill(mask.expand(2, 64, 64), 0.0)
            return x

    recorded = record(Many(), (normal(2, 64, 64),))
    arrays = {
        id(recorded.constants[v])
        for n in recorded.nodes
        if "masked_fill" in n.op
        for v in n.inputs
        if v in recorded.constants and recorded.values[v].dtype == "bool"
    }
    assert len(arrays) == 1
    (mask,) = {id(a): a for a in recorded.constants.values() if a.shape == (2, 64, 64) and a.dtype == bool}.values()
    assert mask.strides[0] == 0


def test_random_control_flow_is_noted() -> None:
    def drop(x: Tensor) -> Tensor:
        return x * 2 if torch.rand([]) < 0.5 else x

    def python(x: Tensor) -> Tensor:
        return x * 2 if random.random() < 0.5 else x

    assert any("random draw decides" in note for note in record(drop, (normal(3),)).notes)
    assert any("Python's or numpy's" in note for note in record(python, (normal(3),)).notes)


def test_built_model_is_untouched() -> None:
    class Caching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(4)
            self.rnn = nn.GRU(4, 4)
            self.cache: dict[int, Tensor] = {}

        def forward(self, x: Tensor) -> Tensor:
            self.cache[x.shape[0]] = x
            self.last = x
            return self.rnn(self.norm(x))[0]

    model = Caching().eval()
    before = copy.deepcopy(model.state_dict())
    parameters = [id(p) for p in model.parameters()]
    state, python = torch.get_rng_state(), random.getstate()
    recorded = record(model, (normal(3, 4, dtype="float32"),))
    assert recorded.crash is None
    assert not model.training
    assert not model.norm.training
    assert [id(p) for p in model.parameters()] == parameters
    assert all(p.grad is None for p in model.parameters())
    assert model.cache == {}
    assert not hasattr(model, "last")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
        assert not hasattr(tensor.untyped_storage(), "_initio")
    assert torch.equal(torch.get_rng_state(), state)
    assert random.getstate() == python
    assert nn.Module.__call__ is nn.Module._wrapped_call_impl
    assert model(torch.randn(3, 4)).device.type == "cpu"


def test_meta_parameter_without_law_is_refused() -> None:
    with torch.device("meta"):
        model = nn.Linear(3, 3)
    with pytest.raises(RecordingError, match=r"parameter weight .* meta device"):
        record(model, (normal(2, 3, dtype="float32"),))


def test_real_run_where_contents_are_needed() -> None:
    def model(lengths: Tensor, x: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return packed.data.square()

    spec = InputSpec((2,), "int64", Distribution("integers", {"low": 1.0, "high": 4.0}, (2,)), data=np.array([3, 2]))
    recorded = record(model, (spec, normal(2, 4, 3)))
    assert recorded.crash is None
    assert any(n.op == "aten.pow.Tensor_Scalar" or n.op == "aten.mul.Tensor" for n in recorded.nodes)
    assert recorded.inputs[1].gradient is not None


def test_without_backward() -> None:
    recorded: Record = record(Residual(), (normal(2, 5, dtype="float32"),), backward=False, train=False)
    assert {n.phase for n in recorded.nodes} == {"forward"}
    assert not recorded.training
    assert not any(v.requires_grad for v in recorded.values if v.id > 10)


def test_buffers_written_in_forward_keep_their_history() -> None:
    recorded = record(Masked().double(), (normal(2, 5, 4),))
    (write,) = [n for n in recorded.nodes if n.op == "aten.add_.Tensor"]
    assert recorded.constants[write.mutates[0]].tolist() == [0.0] * 4
    assert any(write.outputs[0] in n.inputs for n in recorded.nodes if n.op == "aten.add.Tensor")


def test_gradients_asked_for_inside_the_model() -> None:
    class Asking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = x[:, None]
            x.requires_grad = True
            return self.inner(x)

    recorded = record(Asking(), (normal(2, 4, dtype="float32"),))
    assert recorded.crash is None
    assert all(p.gradient is not None for p in recorded.parameters)
