import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from initio.cli import status
from initio.sweeps import load

FAMILIES = str(Path(__file__).parents[1] / "families.py")
INITIO = [sys.executable, "-c", "from initio.cli import main; main()"]


def start(*arguments):
    """The command as from a terminal: started in the background, the tests themselves may have Ctrl-C ignored."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a handler, unlike an ignored signal, is not inherited
    try:
        return subprocess.Popen(
            [*INITIO, "sweep", *map(str, arguments)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    finally:
        signal.signal(signal.SIGINT, before)


def finished(store):
    if not store.exists():
        return []
    with sqlite3.connect(f"file:{store}?mode=ro", uri=True) as connection:
        try:
            return connection.execute("SELECT id, seconds FROM cells ORDER BY id").fetchall()
        except sqlite3.OperationalError:
            return []


def until(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.02)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def children(pid):
    found = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in found.read_text().split()] if found.exists() else []


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="follows processes through /proc")
def test_kill_9_loses_nothing_and_nothing_is_done_twice(tmp_path):
    store = tmp_path / "cells.sqlite"
    command = (
        f"{FAMILIES}:slow",
        "--grid",
        "depth=2:25",
        "--grid",
        "seconds=0.15",
        "-i",
        "4x32",
        "--store",
        store,
        "-j",
        2,
        "--no-findings",
    )
    first = start(*command)
    until(lambda: len(finished(store)) >= 4, first)
    workers = children(first.pid)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    first.communicate()
    before = finished(store)
    assert 4 <= len(before) < 24
    second = start(*command)
    out, err = second.communicate(timeout=200)
    assert second.returncode == 0, err
    after = finished(store)
    assert [index for index, _ in after] == list(range(24))
    assert dict(before).items() <= dict(after).items()  # what was kept is what still stands: the CPU times are the first run's
    assert "24 of 24 cells, 0 failed" in out
    end = time.monotonic() + 20
    while any(alive(pid) for pid in workers):
        assert time.monotonic() < end, "a worker outlived its parent"
        time.sleep(0.1)


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_keeps_what_is_finished(tmp_path):
    store = tmp_path / "cells.sqlite"
    process = start(f"{FAMILIES}:slow", "-g", "depth=2:200", "-g", "seconds=0.2", "-i", "4x32", "--store", store, "-j", 1, "--no-findings")
    until(lambda: len(finished(store)) >= 2, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on" in err
    kept = load(store)
    assert 2 <= len(kept) < 199
    assert kept.missing == 199 - len(kept)


def run(capsys, *arguments):
    code = status(["sweep", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_failed_cells_make_the_status_1_and_are_tried_again_on_request(tmp_path, capsys):
    store, table = tmp_path / "cells.sqlite", tmp_path / "cells.csv"
    command = (f"{FAMILIES}:brittle", "-g", "gain=1,3", "-i", "4x32", "--store", store, "-j", 0)
    code, out, _ = run(capsys, *command, "-o", table)
    assert code == 1
    assert "2 of 2 cells, 1 failed" in out
    assert "no model with gain 3.0" in out
    assert table.read_text().count("\n") == 3
    code, out, _ = run(capsys, *command, "--retry-failed")
    assert code == 1


def test_a_page_of_maps(tmp_path, capsys):
    page = tmp_path / "map.html"
    store = tmp_path / "s.sqlite"
    code, _, _ = run(capsys, f"{FAMILIES}:mlp", "-g", "depth=2,4", "-g", "gain=1:2:3", "-i", "4x32", "--store", store, "-j", 0, "-o", page)
    text = page.read_text()
    assert code == 0
    assert "gradient_growth" in text
    assert "http" not in text.replace("http://www.w3.org", "").replace("http-equiv", "")


@pytest.mark.parametrize(
    "arguments, told",
    [
        (("FAMILIES:mlp", "-g", "gain=", "-i", "4x32"), "it has no values"),
        (("FAMILIES:mlp", "-g", "gian=1,2", "-i", "4x32"), "gian"),
        (("FAMILIES:needs", "-g", "gain=1,2", "-i", "4x32"), "depth"),
        (("FAMILIES:mlp", "-g", "gain=1,2"), "an input for this factory"),
        (("FAMILIES:mlp", "-g", "gain=1,2", "-i", "4x{width}", "-j", "0"), "width"),
        (("FAMILIES:mlp", "-g", "gain=1,2", "-i", "4x32", "-o", "map.png"), ".html"),
        (("FAMILIES:mlp", "-g", "gain=1,2", "-i", "4x32", "--select", "XYZ"), "XYZ"),
        (("FAMILIES:mlp", "-g", "gain=1,2", "-i", "4x32", "--learning-rate", "0"), "learning rate"),
        (("FAMILIES:nothing", "-g", "gain=1,2", "-i", "4x32"), "nothing"),
        (("nowhere.py:mlp", "-g", "gain=1,2", "-i", "4x32"), "does not exist"),
    ],
)
def test_what_is_refused_before_it_starts(arguments, told, tmp_path, capsys):
    filled = [argument.replace("FAMILIES", FAMILIES) for argument in arguments]
    code, _, err = run(capsys, *filled, "--store", tmp_path / "s.sqlite")
    assert code == 2
    assert told in " ".join(err.split())
