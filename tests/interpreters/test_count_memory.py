import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from initio.api.counting import count


def kept(model, x, backend):
    """Bytes and number of the storages that autograd saves in a real forward pass, beside parameters and buffers."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    found, held = {}, []

    def pack(tensor):
        held.append(tensor)
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    kernel = sdpa_kernel(SDPBackend.MATH if backend == "math" else SDPBackend.FLASH_ATTENTION)
    with kernel, torch.backends.mkldnn.flags(enabled=False), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(x)
    return sum(found.values()), len(found)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3, padding=1))
        self.two = nn.Sequential(nn.GroupNorm(2, 8), nn.GELU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 1), nn.Dropout(0.1))

    def forward(self, x):
        return self.two(F.relu(x + self.one(x))).mean((2, 3))


class Decoder(nn.Module):
    """Token ids, a tied head, packed queries, keys and values."""

    def __init__(self, causal=True, **options):
        super().__init__()
        self.embed, self.qkv, self.out = nn.Embedding(50, 32), nn.Linear(32, 96), nn.Linear(32, 32)
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 50, bias=False)
        self.head.weight = self.embed.weight
        self.causal, self.options = causal, options

    def forward(self, ids):
        x = self.embed(ids)
        q, k, v = (each.unflatten(-1, (4, 8)).transpose(1, 2) for each in self.qkv(self.norm(x)).chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal, **self.options)
        return self.head(F.silu(x + self.out(y.transpose(1, 2).reshape(x.shape))))


class Grouped(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.kv = nn.Linear(32, 32), nn.Linear(32, 16)

    def forward(self, x):
        q = self.q(x).unflatten(-1, (4, 8)).transpose(1, 2)
        k, v = (each.unflatten(-1, (1, 8)).transpose(1, 2) for each in self.kv(x).chunk(2, -1))
        return F.scaled_dot_product_attention(q * 1.5, k.sin(), v, enable_gqa=True).transpose(1, 2).contiguous()


class Checkpointed(nn.Module):
    def __init__(self, reentrant=True):
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 16)) for _ in range(3))
        self.reentrant = reentrant

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=self.reentrant)
        return x


def encoder():
    return nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True, activation="gelu")


CASES = {
    "residual": (Residual, "4x8x12x12", "math"),
    "decoder": (Decoder, "2x16:int(50)", "fused"),
    "decoder by definition": (Decoder, "2x16:int(50)", "math"),
    "dropout in attention": (lambda: Decoder(dropout_p=0.1), "2x16:int(50)", "math"),
    "grouped queries": (Grouped, "2x16x32", "fused"),
    "encoder": (encoder, "2x16x32", "fused"),
    "encoder by definition": (encoder, "2x16x32", "math"),
    "lstm": (lambda: nn.LSTM(8, 16, 2, batch_first=True), "4x6x8", "math"),
    "gru": (lambda: nn.GRU(8, 16, batch_first=True), "4x6x8", "math"),
    "checkpointed": (Checkpointed, "8x16", "math"),
    "checkpointed without reentry": (lambda: Checkpointed(False), "8x16", "math"),
    "in-place": (lambda: nn.Sequential(nn.Linear(8, 8), nn.ReLU(inplace=True), nn.Linear(8, 8), nn.Tanh(), nn.Softmax(-1)), "4x8", "math"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", CASES)
def test_saved_is_what_autograd_saves(name):
    build, spec, attention = CASES[name]
    shape = tuple(int(n) for n in spec.split(":")[0].split("x"))
    x = torch.randint(0, 50, shape) if "int" in spec else torch.randn(shape)
    memory = count(build, spec, attention=attention).memory
    assert (memory.saved, memory.storages) == kept(build(), x, attention)


def _plain():
    return nn.Sequential(nn.Linear(16, 16), *(nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 16)) for _ in range(3)))


def test_checkpointing_keeps_only_the_inputs_of_its_blocks():
    counts = count(Checkpointed, "8x16")
    assert counts.memory.saved == 4 * (4 * 8 * 16)  # the model's input and those of three blocks
    plain = count(_plain(), "8x16")
    assert counts.backward.macs == plain.backward.macs + 3 * 8 * 2 * 16 * 64
    assert count(Checkpointed, "512x16").memory.peak < count(_plain(), "512x16").memory.peak


def test_training_memory_by_hand():
    """A linear layer: input and output stay, the cotangent arrives, the weight's gradient is made, then the bias's."""
    memory = count(nn.Linear(6, 10), (4, 6)).memory
    entries = 6 * 10 + 10
    assert memory.parameters == memory.gradients == 4 * entries
    assert memory.saved == 4 * 4 * 6
    assert memory.peak == 4 * (4 * 6 + 2 * 4 * 10 + entries)
    assert memory.training("sgd") == 4 * entries + memory.peak
    assert memory.training("momentum") == memory.training("sgd") + 4 * entries
    assert memory.training("adam") == memory.training("sgd") + 8 * entries + 8


def test_without_a_backward_pass_nothing_is_saved():
    memory = count(nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 10)), (4, 6), backward=False).memory
    assert memory.saved == 0
    assert memory.peak == 4 * (4 * 6 + 2 * 4 * 10)


def test_half_precision_and_autocast():
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))
    full, cast = count(model, (64, 16)).memory, count(model, (64, 16), autocast="bfloat16").memory
    half = count(lambda: model.__class__(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16)).bfloat16(), "64x16:bfloat16").memory
    assert half.saved * 2 == full.saved
    assert half.parameters * 2 == full.parameters == cast.parameters
    x = torch.randn(64, 16)

    class Cast(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            with torch.autocast("cpu", torch.bfloat16):
                return self.model(x)

    assert (cast.saved, cast.storages) == kept(Cast(), x, "math")


def test_attention_matrices_are_kept_by_definition_only():
    small, large = (count(Decoder, f"2x{length}:int(50)").memory.saved for length in (16, 32))
    assert large == 2 * small
    small, large = (count(Decoder, f"2x{length}:int(50)", attention="math").memory.saved for length in (16, 32))
    assert large > 2 * small
