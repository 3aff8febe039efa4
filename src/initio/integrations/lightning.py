# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportMissingImports=false
# lightning is an optional dependency
"""`Trainer(callbacks=[InitioCallback()])`: a Lightning module is checked before its first training step."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from initio.core.errors import InitioError

if TYPE_CHECKING:
    from initio.core.report import Report

__all__ = ["InitioCallback"]

Base: Any
try:  # the package that the user's Trainer comes from: the two know nothing of each other
    if "pytorch_lightning" in sys.modules and "lightning" not in sys.modules:
        from pytorch_lightning import Callback as Base
    else:
        from lightning.pytorch import Callback as Base
except ImportError:
    Base = object


class InitioCallback(Base):
    """Checks what `training_step` calls, on its first batch, before any of it runs.

    `training_step` may call the module itself or networks that it holds; each is one target. `fail_on` is the least severity that
    raises `FindingsError` ("error", "warning", "note", "never"); other errors and warnings are Python warnings. `select`, `ignore` and `loss`
    are those of `initio.check`. After the first batch, `reports` holds a report a target, and no hook is left.

    ```python
    trainer = lightning.Trainer(callbacks=[InitioCallback(fail_on="error")])
    ```
    """

    def __init__(self, *, fail_on: str = "error", select: Iterable[str] = (), ignore: Iterable[str] = (), loss: Any = None) -> None:
        if Base is object:
            raise InitioError("Lightning", "it is not installed", where="InitioCallback", remedy="pip install lightning")
        super().__init__()
        from initio.integrations.first_step import fails_on

        self.options: dict[str, Any] = {"fail_on": fails_on(fail_on), "select": tuple(select), "ignore": tuple(ignore), "loss": loss}
        self.reports: list[Report] = []
        self._calls: Any = None
        self._done = False

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Hook the module for one batch, the first."""
        if self._done:
            return
        from initio.integrations.first_step import FirstCalls

        self._done = True
        if trainer.is_global_zero:
            self._calls = FirstCalls(pl_module, **self.options)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """The first step is about to be made: the check is over."""
        self._finish()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Nor is it left to later batches where gradients accumulate."""
        self._finish()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Leave no hook behind."""
        self._finish()

    def _finish(self) -> None:
        if self._calls is not None:
            self._calls.remove()
            self.reports = self._calls.reports
            self._calls = None
