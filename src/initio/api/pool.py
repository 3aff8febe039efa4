"""Cells shared among processes of this machine: a bounded number on the way, one thread each, and none that survives its parent."""

from __future__ import annotations

import concurrent.futures as futures
import itertools
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any

from initio.core.errors import InitioError

__all__ = ["Chunks", "Outcome", "cores", "here", "local"]

TOGETHER = 4.0
"""Seconds of work that are done, and kept, together at most."""
LARGEST = 128
"""Cells that are computed together at most."""

Numbered = tuple[int, dict[str, Any]]
Attempts = Callable[[Any, Sequence[tuple[int, Mapping[str, Any]]]], "list[Outcome]"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a cell; `quick` says that it gains from being computed together with others."""

    index: int
    quantities: dict[str, Any]
    failed: str
    seconds: float
    quick: bool = False


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Chunks:
    """Cells in chunks: single ones, and more and more together where that is quicker."""

    def __init__(self, cells: Iterator[Numbered]) -> None:
        self._cells, self._size = cells, 1

    def __iter__(self) -> Iterator[list[Numbered]]:
        while chunk := list(itertools.islice(self._cells, self._size)):
            yield chunk

    def learn(self, outcomes: Sequence[Outcome]) -> None:
        """Adapt to how the last chunk went."""
        seconds = sum(outcome.seconds for outcome in outcomes) / len(outcomes)
        together = 2 * sum(outcome.quick for outcome in outcomes) > len(outcomes)
        self._size = max(1, min(2 * self._size, LARGEST, int(TOGETHER / max(seconds, 1e-3)))) if together else 1


def here(attempts: Attempts, task: Any, cells: Iterator[Numbered]) -> Generator[Outcome]:
    """Outcomes as this process computes them."""
    chunks = Chunks(cells)
    for chunk in chunks:
        outcomes = attempts(task, chunk)
        chunks.learn(outcomes)
        yield from outcomes


def local(attempts: Attempts, task: Any, cells: Iterator[Numbered], workers: int | None, count: int) -> Generator[Outcome]:
    """Outcomes as they come. A cell that ends its process (a crash below Python, no memory) fails alone; the others are tried again."""
    _portable(task)
    size = max(1, min(workers or cores(), count))
    while lost := (yield from _some(attempts, task, cells, size, 2 * size)):
        suspects = iter(lost)
        while single := (yield from _some(attempts, task, suspects, 1, 1)):  # one at a time: the one that is lost is the one that did it
            for index, _ in single:
                yield Outcome(index, {}, "the process that worked on it ended: it crashed below Python, or memory ran out", 0.0)


def _some(attempts: Attempts, task: Any, cells: Iterator[Numbered], size: int, ahead: int) -> Generator[Outcome, None, list[Numbered]]:
    """Work on cells until there are none left, or the pool breaks; what was on the way then."""
    context = multiprocessing.get_context("spawn")
    pool = futures.ProcessPoolExecutor(size, mp_context=context, initializer=_begin, initargs=(attempts, task))
    chunks = Chunks(cells)
    waiting = iter(chunks) if ahead > 1 else ([cell] for cell in cells)
    running: dict[futures.Future[list[Outcome]], list[Numbered]] = {}
    whole = False
    try:
        started = pool.submit(os.getpid)
        while True:
            while len(running) < ahead and (chunk := next(waiting, None)) is not None:
                try:
                    running[pool.submit(_work, chunk)] = chunk
                except BrokenProcessPool:
                    return [*itertools.chain.from_iterable(running.values()), *chunk]
            if not running:
                whole = True
                return []
            ready, _ = futures.wait(running, return_when=futures.FIRST_COMPLETED)
            for future in ready:
                if isinstance(future.exception(), BrokenProcessPool):
                    continue
                outcomes = future.result()
                del running[future]
                chunks.learn(outcomes)
                yield from outcomes
            if any(future in running for future in ready):
                if started.exception() is not None:
                    raise _unstarted()
                return list(itertools.chain.from_iterable(running.values()))
    finally:
        if not whole:
            workers: dict[int, Any] = getattr(pool, "_processes", None) or {}
            for process in list(workers.values()):
                process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)


_job: tuple[Attempts, Any] | None = None


def _begin(attempts: Attempts, task: Any) -> None:
    """In the new process: Ctrl-C is the parent's to handle, and the parent's end is this one's."""
    global _job
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=(parent.sentinel,), daemon=True).start()
    import torch

    torch.set_num_threads(1)
    _job = attempts, task


def _follow(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


def _work(cells: list[Numbered]) -> list[Outcome]:
    assert _job is not None
    attempts, task = _job
    return attempts(task, cells)


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
