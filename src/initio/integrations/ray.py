"""Cells on a Ray cluster (`initio[ray]`): one task a group of cells, begun anew where its node is lost."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportMissingImports=false
# ray is an optional dependency and its decorators are untyped

from __future__ import annotations

import contextlib
import importlib
import socket
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, Protocol

from initio.core.errors import InitioError

__all__ = ["remote"]

RETRIES = 5
"""How often a cell whose node or process was lost is begun anew; groups are halved at once."""
PATIENCE = 10.0
"""Seconds in which a cluster must answer."""
AHEAD = 2
"""Groups on the way for each processor of the cluster: enough that none waits for this process."""

Numbered = tuple[int, dict[str, Any]]


class Groups(Protocol):
    """Cells in groups, whose size adapts to the outcomes of those before."""

    def __iter__(self) -> Iterator[list[Numbered]]: ...
    def learn(self, outcomes: Sequence[Any]) -> None: ...


def remote(
    attempts: Callable[..., list[Any]],
    task: Any,
    groups: Groups,
    address: str,
    lost: Callable[[int, str], Any],
    *,
    modules: tuple[str, ...] = (),
) -> Generator[Any]:
    """Outcomes of `attempts(task, group)` as the cluster at `address` finishes them; `lost` makes one of a cell that Ray gave up.

    A group that is lost is begun anew in halves, until the cell that ends its process stands alone.

    An address is what `ray.init` takes: HOST:PORT, ray://HOST:PORT, or "auto" for the cluster that this machine belongs to. Of the named
    `modules`, the code is sent along: they need not exist on the other machines. Initio itself must be installed there.

    Raises:
        InitioError: where Ray is missing, or nothing answers at the address.
    """
    try:
        ray = importlib.import_module("ray")
    except ImportError as error:
        raise InitioError("Ray", "it is not installed", where="--ray", remedy="pip install 'initio[ray]'") from error
    mine = not ray.is_initialized()
    if mine:
        try:
            _reached(address)
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", configure_logging=False)
        except Exception as error:
            came = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            remedy = "Start one with `ray start --head` and give its HOST:PORT, ray://HOST:PORT, or auto."
            raise InitioError(f"a Ray cluster at {address!r}", came, where="--ray", remedy=remedy) from error
    try:
        for name in modules:
            with contextlib.suppress(ValueError):
                ray.cloudpickle.register_pickle_by_value(sys.modules[name])
        yield from _all(ray, ray.put((attempts, task)), groups, lost)
    finally:
        if mine:
            ray.shutdown()


def _reached(address: str) -> None:
    """Raise where nothing accepts connections at HOST:PORT: Ray itself would try for minutes."""
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if separator and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE).close()


def _all(ray: Any, job: Any, groups: Groups, lost: Callable[[int, str], Any]) -> Generator[Any]:
    function = ray.remote(num_cpus=1)(_worked)
    waiting = iter(groups)
    again: list[list[Numbered]] = []
    running: dict[Any, list[Numbered]] = {}
    try:
        while True:
            room = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
            while len(running) < room and (group := again.pop() if again else next(waiting, None)) is not None:
                running[function.options(max_retries=0 if len(group) > 1 else RETRIES).remote(job, group)] = group
            if not running:
                return
            ready, _ = ray.wait(list(running), num_returns=1)
            for reference in ready:
                group = running.pop(reference)
                try:
                    outcomes = ray.get(reference)
                    groups.learn(outcomes)
                except ray.exceptions.RayError as error:
                    if len(group) > 1:
                        half = len(group) // 2
                        again += [group[half:], group[:half]]
                        continue
                    why = f"Ray gave it up after {RETRIES} retries: {str(error).strip().partition(chr(10))[0]}"
                    outcomes = [lost(group[0][0], why)]
                yield from outcomes
    finally:
        for reference in running:
            ray.cancel(reference, force=True)


_task: Any = None
"""What this process worked on last: kept, since code that was sent along is made anew with every group, and its classes with it."""


def _worked(job: Any, group: list[Numbered]) -> list[Any]:
    """On a node: one thread, and the attempts themselves."""
    global _task
    import torch

    torch.set_num_threads(1)
    attempts, task = job
    if _task is None or _task.token != task.token:
        _task = task
    return attempts(_task, group)
