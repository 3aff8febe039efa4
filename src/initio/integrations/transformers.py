# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportMissingImports=false
# transformers is an optional dependency
"""`Trainer(..., callbacks=[InitioCallback()])`: a Hugging Face model is checked before its first training step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from initio.core.errors import InitioError

if TYPE_CHECKING:
    from initio.core.report import Report

__all__ = ["InitioCallback"]

Base: Any
try:
    from transformers import TrainerCallback as Base
except ImportError:
    Base = object


class InitioCallback(Base):
    """Checks the model on the first batch that `Trainer` passes to it, before the forward pass.

    `fail_on` is the least severity that raises `FindingsError` ("error", "warning", "note", "never"); other errors and warnings are
    Python warnings. `select` and `ignore` are those of `initio.check`, and so is `loss`: "model" is the loss that the model returns where
    the batch has labels; None a unit-normal cotangent. Afterwards `reports` holds the report, and no hook is left.

    ```python
    trainer = transformers.Trainer(model, arguments, train_dataset=data, callbacks=[InitioCallback(fail_on="error")])
    ```
    """

    def __init__(self, *, fail_on: str = "error", select: Iterable[str] = (), ignore: Iterable[str] = (), loss: Any = "model") -> None:
        if Base is object:
            raise InitioError("transformers", "it is not installed", where="InitioCallback", remedy="pip install 'initio[hf]'")
        super().__init__()
        from initio.integrations.first_step import fails_on

        self.options: dict[str, Any] = {"fail_on": fails_on(fail_on), "select": tuple(select), "ignore": tuple(ignore), "loss": loss}
        self.reports: list[Report] = []
        self._calls: Any = None
        self._done = False

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Hook the model for the first step."""
        if self._done or model is None:
            return
        from initio.integrations.first_step import FirstCalls, unwrapped

        self._done = True
        if state.is_world_process_zero:
            self._calls = FirstCalls(unwrapped(model), **self.options)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The first step is about to be made: the check is over."""
        self._finish()

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Nor is it left to later batches where gradients accumulate."""
        self._finish()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Trainers before the pre-optimizer event end here."""
        self._finish()

    def _finish(self) -> None:
        if self._calls is not None:
            self._calls.remove()
            self.reports = self._calls.reports
            self._calls = None
