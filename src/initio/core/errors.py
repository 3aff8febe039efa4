"""The one error that users meet: what was expected, what came, where, and the remedy."""

from __future__ import annotations

__all__ = ["InitioError"]


class InitioError(Exception):
    """Initio could not do its work.

    The message is one paragraph: `Expected …, but … (where). Remedy.`

    >>> print(InitioError("an input of rank 4", "got rank 2, 8x3", where="--input", remedy="Write 8x3x224x224."))
    Expected an input of rank 4, but got rank 2, 8x3 (--input). Write 8x3x224x224.
    """

    def __init__(self, expected: str, came: str, *, where: str = "", remedy: str = "") -> None:
        self.expected = expected
        self.came = came
        self.where = where
        self.remedy = remedy
        message = f"Expected {expected}, but {came}" + (f" ({where})" if where else "") + "."
        super().__init__(f"{message} {remedy}".strip())
