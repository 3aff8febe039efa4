import pytest
from torch import nn

import initio
from initio.core.errors import InitioError


class Scalars:
    def __init__(self):
        self.rows = {}

    def add_scalar(self, tag, value, step):
        self.rows[tag] = (value, step)


class Run:
    def log(self, rows, step):
        self.rows, self.step = rows, step


@pytest.fixture(scope="module")
def analysis():
    return initio.analyze(lambda: nn.Sequential(nn.Linear(16, 8), nn.ReLU()), "4x16")


def test_both_kinds_of_writer_get_the_same(analysis):
    writer, run = Scalars(), Run()
    analysis.log(writer, step=3)
    analysis.log(run, step=3)
    assert {tag: value for tag, (value, _) in writer.rows.items()} == run.rows
    assert {step for _, step in writer.rows.values()} == {run.step} == {3}
    assert run.rows["initio/rms/0"] == analysis.modules["0"].rms
    assert run.rows["initio/grad_rms/1"] == analysis.modules["1"].grad_rms
    assert run.rows["initio/ratio/0.weight"] == analysis.parameters["0.weight"].ratio


def test_another_object_is_refused(analysis):
    with pytest.raises(InitioError, match="add_scalar"):
        analysis.log(3)


def test_tensorboard_reads_them_back(analysis, tmp_path):
    tensorboard = pytest.importorskip("torch.utils.tensorboard", reason="tensorboard is not installed", exc_type=ImportError)
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="no tensorboard", exc_type=ImportError)
    with tensorboard.SummaryWriter(tmp_path) as writer:
        analysis.log(writer)
    read = loader.EventAccumulator(str(tmp_path))
    read.Reload()
    assert read.Scalars("initio/rms/0")[0].value == pytest.approx(analysis.modules["0"].rms)


def test_weights_and_biases_keeps_them(analysis, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="wandb is not installed: pip install wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with wandb.init(mode="offline", dir=tmp_path, project="initio", settings=wandb.Settings(x_disable_stats=True)) as run:
        analysis.log(run, step=3)
        run.log({"loss": 1.0}, step=4)  # which completes step 3
        assert run.summary["initio/rms/0"] == analysis.modules["0"].rms
        assert run.summary["initio/ratio/0.weight"] == analysis.parameters["0.weight"].ratio
    wandb.teardown()  # what it holds back goes to the file
    (kept,) = tmp_path.rglob("*.wandb")
    assert b"initio/grad_rms/1" in kept.read_bytes()
