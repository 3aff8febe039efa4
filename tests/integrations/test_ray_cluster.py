"""A real Ray cluster of several nodes on this machine. `pip install 'initio[ray]'` first; without it these tests are skipped."""

import os
import sys
import threading
from pathlib import Path

import pytest

import initio
from initio.core.errors import InitioError

TESTS = str(Path(__file__).parents[1])
FAMILIES = f"{TESTS}/families.py"

ray = pytest.importorskip("ray", reason="Ray is heavy and no part of the dev extra: pip install 'initio[ray]'")


@pytest.fixture
def cluster(monkeypatch):
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([path for path in sys.path if path != TESTS]))  # nodes do not see the factory's file
    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False})
    try:
        yield found
    finally:
        ray.shutdown()
        found.shutdown()


@pytest.mark.skipif(sys.platform == "win32", reason="Ray's test cluster needs POSIX")
def test_a_node_is_killed_half_way_and_no_cell_is_lost(cluster, tmp_path):
    second = cluster.add_node(num_cpus=1, object_store_memory=80_000_000)
    cluster.add_node(num_cpus=1, object_store_memory=80_000_000)
    killed = threading.Event()

    def kill(done, failed, total):
        if done >= 6 and not killed.is_set():
            killed.set()
            cluster.remove_node(second, allow_graceful=False)

    grid = {"depth": "2:25", "seconds": (0.3,)}
    settings = {"ray": cluster.address, "store": tmp_path / "s.sqlite", "findings": False}
    found = initio.sweep(f"{FAMILIES}:slow", grid, (4, 32), progress=kill, **settings)
    assert killed.is_set()
    assert len(found) == 24
    assert not found.failed
    assert found.computed == 24
    here = initio.sweep(f"{FAMILIES}:slow", {"depth": (2, 25), "seconds": (0.0,)}, (4, 32), workers=0, findings=False)
    assert [here.cells[0].quantities, here.cells[1].quantities] == [found.cells[0].quantities, found.cells[-1].quantities]
    assert initio.sweep(f"{FAMILIES}:slow", grid, (4, 32), **settings).computed == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Ray's test cluster needs POSIX")
def test_cells_are_computed_in_groups_and_the_one_that_ends_its_process_fails_alone(cluster, monkeypatch):
    from initio.api.pool import Chunks

    groups = []
    monkeypatch.setattr("initio.integrations.ray.RETRIES", 1)
    monkeypatch.setattr(
        Chunks, "learn", lambda self, outcomes, learn=Chunks.learn: (groups.append(len(outcomes)), learn(self, outcomes))[1]
    )
    found = initio.sweep(f"{FAMILIES}:fatal", {"gain": "0.5:3.1:27"}, (4, 32), ray=cluster.address)
    assert max(groups) >= 8
    assert sum(groups) == 26
    assert len(found) == found.computed == 27
    (failed,) = found.failed
    assert failed.parameters["gain"] == pytest.approx(3.0)
    assert "Ray gave it up" in failed.failed
    here = initio.sweep(f"{FAMILIES}:fatal", {"gain": (0.5, 1.5, 2.9)}, (4, 32), workers=0)
    again = {round(cell.parameters["gain"], 6): cell.quantities for cell in found.cells}
    for cell in here.cells:
        assert again[cell.parameters["gain"]]["signal"] == pytest.approx(cell.quantities["signal"], rel=1e-6)


def test_an_address_where_nothing_answers():
    with pytest.raises(InitioError, match="a Ray cluster at"):
        initio.sweep(f"{FAMILIES}:mlp", {"depth": (2, 3)}, (4, 32), ray="127.0.0.1:1", findings=False)
