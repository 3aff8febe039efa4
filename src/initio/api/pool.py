"""Cells shared among processes of this machine: a bounded number on the way, one thread each, and none that survives its parent."""

from __future__ import annotations

import concurrent.futures as futures
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any

from initio.core.errors import InitioError

__all__ = ["Outcome", "cores", "local"]

Numbered = tuple[int, dict[str, Any]]
Attempt = Callable[[Any, int, Mapping[str, Any]], "Outcome"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a cell."""

    index: int
    quantities: dict[str, Any]
    failed: str
    seconds: float


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def local(attempt: Attempt, task: Any, cells: Iterator[Numbered], workers: int | None, count: int) -> Generator[Outcome]:
    """Outcomes as they come. A cell that ends its process (a crash below Python, no memory) fails alone; the others are tried again."""
    _portable(task)
    size = max(1, min(workers or cores(), count))
    suspects: list[Numbered] = []
    while True:
        lost = yield from _some(attempt, task, cells, size)
        suspects.extend(lost)
        if not lost:
            return
        for suspect in suspects:
            again = yield from _some(attempt, task, iter([suspect]), 1)
            if again:
                yield Outcome(suspect[0], {}, "the process that worked on it ended: it crashed below Python, or memory ran out", 0.0)
        suspects.clear()


def _some(attempt: Attempt, task: Any, cells: Iterator[Numbered], size: int) -> Generator[Outcome, None, list[Numbered]]:
    """Work on cells until there are none left, or the pool breaks; what was on the way then."""
    context = multiprocessing.get_context("spawn")
    pool = futures.ProcessPoolExecutor(size, mp_context=context, initializer=_begin, initargs=(attempt, task))
    running: dict[futures.Future[Outcome], Numbered] = {}
    whole = False
    try:
        ready_at_all = pool.submit(os.getpid)
        while True:
            while len(running) < 2 * size and (cell := next(cells, None)) is not None:
                try:
                    running[pool.submit(_work, *cell)] = cell
                except BrokenProcessPool:
                    return [*running.values(), cell]
            if not running:
                whole = True
                return []
            ready, _ = futures.wait(running, return_when=futures.FIRST_COMPLETED)
            for future in ready:
                try:
                    outcome = future.result()
                except BrokenProcessPool:
                    continue
                del running[future]
                yield outcome
            if any(future in running for future in ready):
                if ready_at_all.exception() is not None:
                    raise _unstarted()
                return list(running.values())
    finally:
        if not whole:
            workers: dict[int, Any] = getattr(pool, "_processes", None) or {}
            for process in list(workers.values()):
                process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)


_job: tuple[Attempt, Any] | None = None


def _begin(attempt: Attempt, task: Any) -> None:
    """In the new process: Ctrl-C is the parent's to handle, and the parent's end is this one's."""
    global _job
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=(parent.sentinel,), daemon=True).start()
    import torch

    torch.set_num_threads(1)
    _job = attempt, task


def _follow(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


def _work(index: int, parameters: dict[str, Any]) -> Outcome:
    assert _job is not None
    attempt, task = _job
    return attempt(task, index, parameters)


def _unstarted() -> InitioError:
    remedy = (
        "A script that sweeps must do so under `if __name__ == '__main__':`, and its factory must be importable from a module; "
        "or work in this process: workers=0."
    )
    return InitioError("worker processes", "they ended while starting; what they printed stands above", where="workers", remedy=remedy)


def _portable(task: Any) -> None:
    """Raise where the factory cannot be found again in another process."""
    try:
        pickle.dumps(task)
    except Exception as error:
        came = f"{type(error).__name__}: {error}"
        remedy = "Define the factory (and the loss) at the top level of a module that can be imported, or work in this process: workers=0."
        raise InitioError("a factory that other processes can import", came, where="factory", remedy=remedy) from error
