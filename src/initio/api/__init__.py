"""The public functions: analyze, check, measure, compare. Importing this module does not import torch."""

from initio.api.counting import count as count
from initio.api.derivations import commute as commute
from initio.api.derivations import derive as derive
from initio.api.fixing import fix as fix
from initio.api.modes import train_eval as train_eval
from initio.api.steps import Compared as Compared
from initio.api.steps import analyze as analyze
from initio.api.steps import check as check
from initio.api.steps import compare as compare
from initio.api.steps import measure as measure
from initio.api.sweeping import sweep as sweep
from initio.api.watching import watch as watch
from initio.core.analysis import Analysis as Analysis
from initio.core.counts import Counts as Counts
from initio.core.distribution import Distribution as Distribution
from initio.core.errors import InitioError as InitioError
from initio.core.finding import Finding as Finding
from initio.core.inputs import InputSpec as InputSpec
from initio.core.modes import TrainEval as TrainEval
from initio.core.report import Report as Report
from initio.core.rewriting import Fixing as Fixing
from initio.core.sweeps import Sweep as Sweep

__all__ = [
    "Analysis",
    "Compared",
    "Counts",
    "Distribution",
    "Finding",
    "Fixing",
    "InitioError",
    "InputSpec",
    "Report",
    "Sweep",
    "TrainEval",
    "analyze",
    "check",
    "commute",
    "compare",
    "count",
    "derive",
    "fix",
    "measure",
    "sweep",
    "train_eval",
    "watch",
]  # fmt: skip
