"""Models that are spread: the numbers of a wrapped model are those of one process."""

import socket
import tempfile

import pytest
import torch
from torch import nn

import initio
from initio.core.errors import InitioError

DISTRIBUTED = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed package")


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 3 * width + 1)  # no rank gets the same number of rows
        self.down = nn.Linear(3 * width + 1, width, bias=False)
        self.drop = nn.Dropout(0.1)

    def forward(self, x):
        return x + self.drop(self.down(torch.relu(self.up(self.norm(x)))))


class Net(nn.Module):
    """An embedding tied to the readout, residual blocks, and one of them called twice."""

    def __init__(self, width=9):
        super().__init__()
        self.table = nn.Embedding(31, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(3))
        self.head = nn.Linear(width, 31, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids):
        x = self.table(ids)
        for block in (*self.blocks, self.blocks[0]):
            x = block(x)
        return self.head(x)


IDS = "4x5:int(31)"


def shard(model):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (2,))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def replicate(model):
    return nn.parallel.DistributedDataParallel(model)


def parallel(model):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    plan = {f"blocks.{i}.{name}": style for i in range(3) for name, style in (("up", ColwiseParallel()), ("down", RowwiseParallel()))}
    return parallelize_module(model, init_device_mesh("cpu", (2,)), plan)


WRAPPERS = {"fully_shard": shard, "ddp": replicate, "tensor_parallel": parallel}


def rank_of_two(rank, port, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    try:
        found = {name: initio.measure(Net, IDS, draws=3, seed=5, wrap=wrap) for name, wrap in WRAPPERS.items()}
        torch.save({name: tables(each) for name, each in found.items()}, f"{folder}/{rank}.pt")
        try:
            initio.measure(shard(Net()), IDS, draws=1)
        except InitioError as error:
            torch.save(str(error), f"{folder}/refused{rank}.pt")
    finally:
        torch.distributed.destroy_process_group()


def tables(measured):
    names = ("outputs", "cotangents", "gradients", "weights", "inputs")
    return {name: {key: (each.mean, each.second) for key, each in getattr(measured, name).items()} for name in names}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(rank_of_two, (port, folder), nprocs=2)
    return [(torch.load(folder / f"{rank}.pt"), torch.load(folder / f"refused{rank}.pt")) for rank in range(2)]


def alike(found, expected):
    for name, table in expected.items():
        assert found[name].keys() >= table.keys(), name
        for key, numbers in table.items():
            assert found[name][key] == pytest.approx(numbers, rel=1e-4, abs=1e-7), (name, key)


@DISTRIBUTED
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_two_ranks_give_the_numbers_of_one_process(wrapper, ranks):
    alone = tables(initio.measure(Net, IDS, draws=3, seed=5))
    assert len(alone["gradients"]) == len(list(Net().parameters()))
    if wrapper == "tensor_parallel":  # what a column-parallel module returns is this rank's part
        for name in ("outputs", "cotangents"):
            alone[name] = {key: numbers for key, numbers in alone[name].items() if not key[0].endswith(".up")}
    for found, _ in ranks:
        alike(found[wrapper], alone)


@DISTRIBUTED
def test_a_built_module_that_is_sharded_is_refused_with_the_way_to_do_it(ranks):
    assert all("wrap=fully_shard" in said for _, said in ranks)


def on_disk(model):
    accelerate = pytest.importorskip("accelerate", reason="dispatches a model by its device map")
    places = {
        "table": "cpu",
        "blocks.0": "disk",
        "blocks.1": "disk",
        "blocks.2.norm": "cpu",
        "blocks.2.up": "disk",
        "blocks.2.down": "disk",
    }
    places |= {"blocks.2.drop": "cpu", "head": "cpu"}
    return accelerate.dispatch_model(model, places, offload_dir=tempfile.mkdtemp(), main_device="cpu")


def offloaded(model):
    accelerate = pytest.importorskip("accelerate", reason="offloads a model to the CPU")
    return accelerate.cpu_offload(model, execution_device=torch.device("cpu"))


@pytest.mark.parametrize("wrap", [on_disk, offloaded])
def test_offloaded_weights_are_measured_as_they_are_loaded(wrap):
    alone = tables(initio.measure(Net, IDS, draws=2, seed=5))
    found = tables(initio.measure(Net, IDS, draws=2, seed=5, wrap=wrap))
    alike(found, alone)
    assert found["gradients"].keys() == alone["gradients"].keys()


def test_a_factory_that_dispatches_needs_no_wrapper():
    alike(tables(initio.measure(lambda: on_disk(Net()), IDS, draws=2, seed=5)), tables(initio.measure(Net, IDS, draws=2, seed=5)))


def test_weights_of_an_earlier_draw_in_the_folder_are_noticed(tmp_path):
    accelerate = pytest.importorskip("accelerate", reason="dispatches a model by its device map")
    places = {"table": "cpu", "head": "cpu", **{f"blocks.{i}": "disk" for i in range(3)}}

    def stale(model):
        return accelerate.dispatch_model(model, places, offload_dir=tmp_path, main_device="cpu")

    initio.measure(Net, IDS, draws=1, wrap=stale)
    with pytest.raises(InitioError, match=r"blocks.0.up.weight is loaded with other ones .*a folder of its own"):
        initio.measure(Net, IDS, draws=1, seed=1, wrap=stale)


def test_a_meta_model_gets_its_numbers_in_the_wrapper():
    def meta():
        with torch.device("meta"):
            return Net()

    plan = initio.init.solve(Net, IDS)
    measured = initio.measure(meta, IDS, draws=4, wrap=plan.apply_)
    assert measured.weights["blocks.1.down.weight"].second == pytest.approx(plan.parameters["blocks.1.down.weight"].variance, rel=0.2)
    with pytest.raises(InitioError, match=r"table.weight is on the meta device .*plan.apply_"):
        initio.measure(meta, IDS)


def test_a_wrapper_that_returns_nothing_is_refused():
    with pytest.raises(InitioError, match=r"it returned NoneType.*Return the module"):
        initio.measure(Net, IDS, wrap=lambda model: None)
