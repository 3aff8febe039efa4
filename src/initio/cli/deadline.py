"""A limit on the time that somebody else's code may take."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType

from initio.core.errors import InitioError

__all__ = ["deadline"]

GRACE = 5.0
"""Seconds after which code that does not come back to Python is ended with the process."""


class _TimeUp(BaseException):
    """Passes through `except Exception` of the code that hangs."""


@contextmanager
def deadline(seconds: float | None, target: str) -> Generator[None]:
    """Interrupt what runs inside after `seconds` (None: never).

    Raises:
        InitioError: the time is up.
    """
    if seconds is None:
        yield
        return
    if seconds <= 0:
        raise InitioError("a positive number of seconds", f"{seconds:g} came", where="--timeout", remedy="Give it some time.")
    last = threading.Timer(seconds + GRACE, _end, (seconds, target))
    last.daemon = True
    last.start()
    stop = _alarm(seconds)
    try:
        yield
    except _TimeUp:
        raise _late(seconds, target) from None
    finally:
        stop()
        last.cancel()


def _alarm(seconds: float) -> Callable[[], None]:
    """Raise `_TimeUp` in the main thread after a while; the returned function calls it off.

    Where the platform has no alarm, or this is no main thread, only the end of the process is left.
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        return lambda: None

    def ring(number: int, frame: FrameType | None) -> None:
        raise _TimeUp

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)

    def stop() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    return stop


def _late(seconds: float, target: str) -> InitioError:
    remedy = "Give more time, a smaller input, or find what does not end in building or running the model."
    return InitioError(f"{target} to be checked within {seconds:g} s", "it was not", where="--timeout", remedy=remedy)


def _end(seconds: float, target: str) -> None:
    sys.stderr.write(f"error: {_late(seconds, target)}\n")
    sys.stderr.flush()
    os._exit(2)
