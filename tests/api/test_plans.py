"""Plans: drawn, polished, printed as code, kept as JSON, and refused for another model."""

import copy
import json
import math

import pytest
import torch
import torch.multiprocessing
from torch import nn

import initio
from initio.core.distribution import Distribution
from initio.core.errors import InitioError
from initio.init import Plan, polish, solve


class Net(nn.Module):
    """A convolution, a norm, a gate that is zero on purpose, a tied pair and a table."""

    def __init__(self, width=32, tied=True):
        super().__init__()
        self.table = nn.Embedding(40, width)
        self.places = nn.Parameter(torch.empty(1, 6, width))
        self.mix = nn.Conv1d(width, width, 3, padding=1)
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)
        self.gate = nn.Linear(width, width)
        self.head = nn.Linear(width, 40, bias=False)
        nn.init.trunc_normal_(self.places, std=0.02)
        nn.init.orthogonal_(self.up.weight)
        nn.init.normal_(self.down.weight, std=0.02)
        nn.init.zeros_(self.gate.weight)
        if tied:
            self.head.weight = self.table.weight

    def forward(self, tokens):
        x = self.table(tokens) + self.places
        x = self.norm(self.mix(x.transpose(1, 2)).transpose(1, 2))
        x = x + self.down(torch.relu(self.up(x)))
        return self.head(x + self.gate(x))


TOKENS = "8x6:int(40)"


def mlp(depth=6, width=64, activation=nn.ReLU):
    return nn.Sequential(*[m for _ in range(depth) for m in (nn.Linear(width, width), activation())])


@pytest.fixture(scope="module")
def plan():
    return solve(Net, TOKENS)


def test_laws_keep_their_family_and_their_zeros(plan):
    families = {name: law.family for name, law in plan.parameters.items()}
    assert families["mix.weight"] == "uniform"
    assert families["up.weight"] == "orthogonal"
    assert families["down.weight"] == families["table.weight"] == "normal"
    assert plan.parameters["gate.weight"].zero
    assert plan.parameters["mix.bias"].zero
    assert plan.parameters["norm.weight"].mean == 1.0
    assert "zero on purpose" in plan.unreached["gate"]
    assert plan.parameters["places"].std == pytest.approx(0.02, rel=0.01)
    assert "head.weight" not in plan.parameters
    assert plan.owners["table.weight"].names == ("table.weight", "head.weight")
    assert "readout" in plan.unreached["table"]


def test_before_and_after_are_what_is_measured(plan):
    measured = initio.measure(lambda: plan.apply_(Net()), TOKENS, draws=24)
    for module, wanted in plan.wanted.items():
        estimate = measured.outputs[module, 0, 0]
        assert plan.after[module].second == pytest.approx(wanted, rel=1e-6)
        assert abs(math.log(estimate.second / wanted)) < math.log(1.1) or abs(estimate.second - wanted) < 3 * estimate.error, module
    author = initio.measure(Net, TOKENS, draws=8)
    assert plan.before["down"].second == pytest.approx(author.outputs["down", 0, 0].second, rel=0.15)


def test_the_prediction_of_the_drawn_model_is_the_plan(plan):
    """The code's own analysis of a factory that ends with the printed function has the profile of the plan."""
    scope = {}
    exec(plan.to_code(), scope)

    def factory():
        model = Net()
        scope["init_weights"](model)
        return model

    analysis = initio.analyze(factory, TOKENS)
    for name, law in plan.parameters.items():
        assert analysis.parameters[name].std == pytest.approx(law.std, rel=5e-3, abs=1e-12), name
        assert analysis.parameters[name].distribution.family == law.family
    for module in plan.wanted:
        assert analysis.modules[module].rms ** 2 == pytest.approx(plan.after[module].second, rel=0.02), module


def test_code_groups_blocks_by_pattern():
    class Blocks(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList(
                nn.ModuleDict({"n": nn.LayerNorm(16), "a": nn.Linear(16, 16), "b": nn.Linear(16, 16)}) for _ in range(4)
            )

        def forward(self, x):
            for block in self.blocks:
                x = x + block["b"](torch.relu(block["a"](block["n"](x))))
            return x

    plan = solve(Blocks, "4x16", "residual")
    code = plan.to_code()
    assert r're.fullmatch(r"blocks\.\d+\.b", name)' in code
    assert 'nn.init.kaiming_uniform_(module.weight, nonlinearity="linear")' in code
    scope = {}
    exec(code, scope)
    torch.manual_seed(0)
    model = Blocks()
    scope["init_weights"](model)
    for name, p in model.named_parameters():
        assert float(p.std()) == pytest.approx(plan.parameters[name].std, rel=0.25, abs=1e-12)


def test_draws_are_reproducible_and_follow_the_generator(plan):
    def drawn(seed):
        return plan.apply_(Net(), torch.Generator().manual_seed(seed)).state_dict()

    first, again, other = drawn(3), drawn(3), drawn(4)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["down.weight"], other["down.weight"])
    torch.manual_seed(5)
    model = plan.apply_(Net())
    torch.manual_seed(5)
    assert torch.equal(model.down.weight, plan.apply_(Net()).down.weight)
    gram = (model.up.weight.T @ model.up.weight).detach()
    assert torch.allclose(gram, torch.eye(32) * gram[0, 0], atol=1e-5)
    assert model.head.weight is model.table.weight


def test_a_model_on_the_meta_device_is_made(plan):
    with torch.device("meta"):
        model = Net()
    plan.apply_(model, torch.Generator().manual_seed(3))
    assert model.head.weight is model.table.weight
    assert not any(p.is_meta for p in model.parameters())
    real = plan.apply_(Net(), torch.Generator().manual_seed(3))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), real.parameters(), strict=True))
    empty = copy.deepcopy(Net()).to(torch.bfloat16)
    assert plan.apply_(empty).down.weight.dtype is torch.bfloat16


def test_buffers_of_a_meta_model_are_constants():
    def normed():
        return nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))

    plan = solve(normed, "16x8")
    with torch.device("meta"):
        model = normed()
    plan.apply_(model)
    assert torch.equal(model[1].running_var, torch.ones(8))
    assert int(model[1].num_batches_tracked) == 0


def shards(rank, port, plan, folder):
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    try:
        torch.manual_seed(rank)  # the ranks disagree on purpose: rank 0 decides
        with torch.device("meta"):
            model = mlp(2, 9)
        fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
        model.to_empty(device="cpu")
        plan.apply_(model)
        torch.save({name: p.full_tensor().detach().clone() for name, p in model.named_parameters()}, f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed package")
def test_shards_are_parts_of_one_draw(tmp_path):
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    plan = solve(lambda: mlp(2, 9), "4x9")
    torch.multiprocessing.spawn(shards, (port, plan, tmp_path), nprocs=2)
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    whole = mlp(2, 9)
    torch.manual_seed(0)
    plan.apply_(whole)
    for name, p in whole.named_parameters():
        assert torch.equal(results[0][name], results[1][name])
        assert torch.equal(results[0][name], p), name


def test_polish_meets_the_second_moment_on_the_batch():
    plan = solve(lambda: mlp(8), "32x64")
    model = plan.apply_(mlp(8), torch.Generator().manual_seed(0))
    batch = 3 + torch.rand(32, 64)  # not what the plan was solved for
    better = polish(plan, model, batch)
    x = batch
    for layer in model:
        x = layer(x)
        if isinstance(layer, nn.Linear):
            assert float(x.detach().square().mean()) == pytest.approx(1.0, rel=2e-3)
    assert isinstance(better, Plan)
    for name in better.gains:
        assert float(model.get_parameter(name).std()) == pytest.approx(better.parameters[name].std, rel=0.1)
    assert better.gains["0.weight"] < plan.gains["0.weight"] / 2
    with pytest.raises(InitioError, match="finite outputs"):
        plan.polish(model, torch.full((4, 64), math.nan))


def test_json_comes_back_as_it_was(plan):
    data = json.loads(plan.to_json())
    again = Plan.from_dict(data)
    assert again.parameters == plan.parameters
    assert again.owners == plan.owners
    assert again.to_json() == plan.to_json()
    first, second = (p.apply_(Net(), torch.Generator().manual_seed(1)) for p in (plan, again))
    assert torch.equal(first.down.weight, second.down.weight)


@pytest.mark.parametrize(
    "bad", [None, [], {}, {"schema": "initio.plan/0"}, {"schema": "initio.plan/1"}, {"schema": "initio.plan/1", "parameters": 3}]
)
def test_what_is_no_plan_is_said(bad):
    with pytest.raises(InitioError, match=r"a plan of schema initio\.plan/1"):
        Plan.from_dict(bad)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: Net(width=16), "has shape"),
        (lambda: Net(tied=False), "not tied"),
        (lambda: nn.Linear(4, 4), "the model lacks"),
        (lambda: nn.Sequential(Net()), "the model lacks"),
        (lambda: "model", "got str"),
    ],
)
def test_a_plan_for_another_model_is_refused(plan, other, message):
    with pytest.raises(InitioError, match=message):
        plan.apply_(other())


def test_a_plan_that_lacks_parameters_is_refused(plan):
    model = Net()
    model.more = nn.Linear(3, 3)
    before = model.down.weight.clone()
    with pytest.raises(InitioError, match=r"the plan lacks more\.weight, more\.bias"):
        plan.apply_(model)
    assert torch.equal(model.down.weight, before)


@pytest.mark.parametrize("changes", [{"target": "sideways"}, {"second": 0.0}, {"second": math.nan}, {"second": "1"}, {"family": "cauchy"}])
def test_targets_that_make_no_sense(changes):
    with pytest.raises(InitioError):
        solve(mlp, "4x64", **changes)


def test_a_model_without_a_weight_to_scale():
    def zero():
        model = nn.Linear(4, 4)
        nn.init.zeros_(model.weight)
        return model

    with pytest.raises(InitioError, match="zero on purpose"):
        solve(zero, "4x4")


def test_a_built_model_is_planned_by_its_values():
    torch.manual_seed(0)
    plan = solve(mlp(4), "16x64")
    assert set(plan.gains) == {"0.weight", "2.weight", "4.weight", "6.weight"}
    assert all(law.family in ("normal", "constant") for law in plan.parameters.values())
    assert all(plan.after[module].second == pytest.approx(1, rel=1e-6) for module in plan.wanted)


def test_given_values_stay_and_are_refused_on_the_meta_device():
    class Positioned(nn.Module):
        def __init__(self):
            super().__init__()
            self.code = nn.Parameter(torch.arange(12.0).reshape(3, 4).sin())
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            return self.layer(x + self.code)

    plan = solve(Positioned, "2x3x4")
    assert torch.equal(plan.apply_(Positioned()).code, Positioned().code)
    assert "pass" in plan.to_code()
    with torch.device("meta"):
        model = Positioned()
    with pytest.raises(InitioError, match="code is on the meta device"):
        plan.apply_(model)


@pytest.mark.parametrize("family", ["normal", "uniform", "orthogonal"])
def test_another_family_has_the_same_profile(plan, family):
    other = solve(Net, TOKENS, family=family)
    assert {other.parameters[name].family for name in ("mix.weight", "up.weight", "down.weight")} == {family}
    assert other.parameters["table.weight"] == plan.parameters["table.weight"]
    for name in plan.gains:
        assert other.parameters[name].std == pytest.approx(plan.parameters[name].std, rel=1e-6)


def test_rates_of_mup():
    plan = solve(lambda: nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5)), "8x10", "mup")
    assert {name: rate for name, rate in plan.rates.items() if rate != 1} == {"2.weight": 1 / 64, "4.weight": 1 / 64}
    assert plan.after["4"].second == pytest.approx(1 / 64, rel=1e-6)


def test_the_table_names_what_is_not_reached(plan):
    text = repr(plan)
    assert "* gate:" in text
    assert "up.weight" in text
    assert initio.init.solve is solve
    assert isinstance(plan.parameters["up.weight"], Distribution)
