"""Cells on a Ray cluster (`initio[ray]`): one task a cell, tried again by Ray where its node is lost."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportMissingImports=false
# ray is an optional dependency and its decorators are untyped

from __future__ import annotations

import contextlib
import importlib
import itertools
import socket
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

from initio.core.errors import InitioError

__all__ = ["remote"]

RETRIES = 5
"""How often a cell whose node or process was lost is begun anew."""
PATIENCE = 10.0
"""Seconds in which a cluster must answer."""
AHEAD = 4
"""Cells on the way for each processor of the cluster: enough that none waits for this process."""


def remote(
    attempts: Callable[[Any, Sequence[tuple[int, Mapping[str, Any]]]], list[Any]],
    task: Any,
    cells: Iterator[tuple[int, dict[str, Any]]],
    address: str,
    lost: Callable[[int, str], Any],
    *,
    modules: tuple[str, ...] = (),
) -> Generator[Any]:
    """Outcomes of `attempts(task, cells)` as the cluster at `address` finishes them; `lost` makes one of a cell that Ray gave up.

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
        yield from _all(ray, attempts, task, cells, lost)
    finally:
        if mine:
            ray.shutdown()


def _reached(address: str) -> None:
    """Raise where nothing accepts connections at HOST:PORT: Ray itself would try for minutes."""
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if separator and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE).close()


def _all(
    ray: Any, attempts: Callable[..., Any], task: Any, cells: Iterator[tuple[int, dict[str, Any]]], lost: Callable[[int, str], Any]
) -> Generator[Any]:
    function = ray.remote(num_cpus=1, max_retries=RETRIES)(_single)
    arguments = ray.put((attempts, task))
    running: dict[Any, int] = {}
    try:
        while True:
            room = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1))) - len(running)
            for index, parameters in itertools.islice(cells, max(0, room)):
                running[function.remote(arguments, index, parameters)] = index
            if not running:
                return
            ready, _ = ray.wait(list(running), num_returns=1)
            for reference in ready:
                index = running.pop(reference)
                try:
                    outcome = ray.get(reference)
                except (ray.exceptions.RayTaskError, ray.exceptions.RayError) as error:
                    outcome = lost(index, f"Ray gave it up after {RETRIES} retries: {str(error).strip().partition(chr(10))[0]}")
                yield outcome
    finally:
        for reference in running:
            ray.cancel(reference, force=True)


def _single(arguments: Any, index: int, parameters: dict[str, Any]) -> Any:
    """On a node: one thread, and the attempt itself."""
    import torch

    torch.set_num_threads(1)
    attempts, task = arguments
    return attempts(task, [(index, parameters)])[0]
