"""The command line. Importing it does not import torch."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typer import Typer

__all__ = ["application", "main"]


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 clean, 1 findings at or above `--fail-on`, 2 Initio could not do its work."""
    sys.exit(status(arguments))


def application() -> Typer:
    """The command line with all of its commands."""
    import initio.cli.commute  # pyright: ignore[reportUnusedImport]  # registers its command
    import initio.cli.derive  # pyright: ignore[reportUnusedImport]  # registers its command
    import initio.cli.fixing  # pyright: ignore[reportUnusedImport]  # registers its command
    import initio.cli.page  # pyright: ignore[reportUnusedImport]  # registers its command
    import initio.cli.planning  # pyright: ignore[reportUnusedImport]  # registers its command
    import initio.cli.sweeping  # noqa: F401  # pyright: ignore[reportUnusedImport]  # registers its command
    from initio.cli.costs import app

    return app


def status(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    import typer
    from rich.console import Console

    from initio.core.errors import InitioError

    errors = Console(stderr=True, highlight=False)
    try:
        result = typer.main.get_command(application()).main(args=arguments, prog_name="initio", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except typer.Exit as leave:
        return leave.exit_code
    except InitioError as error:
        _say(str(error))
    except (KeyboardInterrupt, typer.Abort):
        errors.print("[bold]initio[/]: interrupted")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        usage = getattr(error, "show", None)  # typer carries its own copy of click, or click itself, by version
        if usage is not None:
            usage()
            return 2
        if os.environ.get("INITIO_DEBUG"):
            raise
        _say(f"Initio itself failed: {type(error).__name__}: {error}. INITIO_DEBUG=1 shows where; please report it with the model.")
    return 2


def _say(message: str) -> None:
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty()).print(Text.assemble(("error: ", "bold red"), message))
