"""Sweeps as stored and compared: `initio.sweeps.load`, `initio.sweeps.compare`."""

from initio.core.sweeps import Sweep as Sweep
from initio.core.sweeps import SweepComparison as SweepComparison
from initio.core.sweeps import compare as compare
from initio.core.sweeps import load as load

__all__ = ["Sweep", "SweepComparison", "compare", "load"]
