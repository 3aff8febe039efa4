# pyright: reportUnknownMemberType=false
"""The pytest plugin: the fixture `initio_check`, and `--initio`, which collects the targets of `[tool.initio]` as tests.

Loaded at every start of pytest: nothing here imports torch before a check runs.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from initio.core.report import Report
    from initio.core.settings import Settings, TargetSettings

__all__ = ["initio_check", "pytest_addoption", "pytest_collect_file", "pytest_collection"]


class UnsoundError(Exception):
    """Findings at or above `fail_on`; the message is the rendered report."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--initio`."""
    group = parser.getgroup("initio", "models checked by Initio")
    group.addoption("--initio", action="store_true", help="run `initio check` on each target of [tool.initio] in pyproject.toml as a test")


@pytest.fixture(scope="session")
def initio_check() -> Callable[..., Report]:
    """`initio_check(model_or_factory, inputs, fail_on="warning", **options)`: `initio.check`, and the test fails on what it finds.

    Options are those of `initio.check`: `select`, `ignore`, `loss`, `train`. Returns the report.

    ```python
    def test_model(initio_check):
        initio_check(Model, "8x3x224x224", loss="cross_entropy", ignore=["SHP102"])
    ```
    """
    return _checked


def _checked(
    model_or_factory: Any, inputs: Any, *, select: Iterable[str] = (), ignore: Iterable[str] = (), fail_on: str = "warning", **options: Any
) -> Report:
    __tracebackhide__ = True
    from initio import check
    from initio.core.errors import InitioError
    from initio.core.report import exit_status
    from initio.core.settings import FAIL_ON

    if fail_on not in FAIL_ON:
        raise InitioError(
            f"one of {', '.join(FAIL_ON)}", f"{fail_on!r} came", where="fail_on", remedy="Name the least severity that fails."
        )
    report = check(model_or_factory, inputs, select=select, ignore=ignore, **options)
    if exit_status([report], fail_on):
        pytest.fail(_rendered([report]), pytrace=False)
    return report


def _rendered(reports: Sequence[Report]) -> str:
    from rich.console import Console

    from initio.render import terminal

    sink = io.StringIO()
    page = Console(file=sink, width=120, color_system=None, highlight=False)
    for report in reports:
        terminal.show_report(report, page)
    return sink.getvalue().rstrip()


class _File(pytest.File):
    """A pyproject.toml with `[tool.initio.targets]`."""

    def collect(self) -> Iterator[pytest.Item]:
        from initio.cli.checking import settings
        from initio.core.errors import InitioError

        try:
            given = settings(self.path)
        except InitioError as error:
            raise self.CollectError(str(error)) from error
        for each in given.targets:
            yield _Item.from_parent(self, name=each.target, given=given, each=each)


class _Item(pytest.Item):
    """`initio check` on one target, under the whole configuration."""

    def __init__(self, *, given: Settings, each: TargetSettings, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.given, self.each = given, each

    def runtest(self) -> None:
        """Fail on findings at or above `fail-on`."""
        from initio.cli.checking import Request, gather
        from initio.core.report import exit_status

        request = Request(self.each.target, None, None, None, False, (), ())
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.path.parent)  # targets are written as seen from the configuration
            reports = gather(request, self.given, lambda: ())
        if exit_status(reports, self.given.fail_on):
            raise UnsoundError(_rendered(reports))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The report, or the one paragraph of an error; a trace only of what should not happen."""
        from initio.core.errors import InitioError

        if isinstance(excinfo.value, (UnsoundError, InitioError)):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        """Where it stands."""
        return self.path, None, f"initio check {self.name}"


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """The configuration, where `--initio` was given and collection comes by it."""
    if parent.config.getoption("--initio") and file_path == _configuration(parent.config):
        return _File.from_parent(parent, path=file_path)
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Add the configuration to what is collected: `testpaths` need not hold it."""
    if not session.config.getoption("--initio"):
        return
    file = _configuration(session.config)
    if file is None:
        raise pytest.UsageError("--initio: expected [tool.initio.targets] in a pyproject.toml at or above the root directory, found none")
    if str(file) not in session.config.args:
        session.config.args.append(str(file))


def _configuration(config: pytest.Config) -> Path | None:
    from initio.core.errors import InitioError
    from initio.core.settings import find, load

    try:
        file = find(config.rootpath)
        return file if file is not None and load(file).targets else None
    except InitioError as error:
        raise pytest.UsageError(f"--initio: {error}") from error
