"""The command line.

options.py   options that commands share, and how they become settings
opening.py   opening a run, doing its work with progress
commands.py  fit, index, merge, trace, report, coverage, demo
lab.py       evaluate, tune
tables.py    what is printed that is not a result of a trace
"""

import os
import sys

from whence.errors import WhenceError

__all__ = ["main"]

_INTERRUPTED = 130


def main() -> None:
    """Run the command line; whence's own errors are one message on stderr, and exit status 2."""
    from whence.cli.commands import app

    together = int(os.environ.get("WORLD_SIZE", "1")) > 1
    try:
        if together and _follow():
            return
        status = app(standalone_mode=False)
        if together:
            _dismiss()
        if status == _INTERRUPTED:  # typer returns it for Ctrl-C instead of letting it through
            raise KeyboardInterrupt
    except WhenceError as error:
        _fail(str(error))
        sys.exit(2)
    except RuntimeError as error:
        if not (together and _is_lost(error)):
            raise
        _fail("another process of torchrun has stopped, so this one stops too; what it said is above or below this.")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.stderr.write("\nStopped. What was finished is kept; the same command goes on from there.\n")
        sys.exit(_INTERRUPTED)
    except BrokenPipeError:
        sys.exit(1)
    except Exception as error:
        if not _is_usage(error):
            raise
        error.show()  # type: ignore[attr-defined]
        sys.exit(error.exit_code)  # type: ignore[attr-defined]


def _follow() -> bool:
    from whence.launch import follow_leader

    return follow_leader()


def _dismiss() -> None:
    from whence.model import dismiss

    dismiss()


def _is_lost(error: RuntimeError) -> bool:
    from whence.model import is_lost

    return is_lost(error)


def _is_usage(error: Exception) -> bool:
    """Whether typer raised it about how the command was typed."""
    return hasattr(error, "show") and hasattr(error, "exit_code")


def _fail(message: str) -> None:
    from rich.console import Console
    from rich.text import Text

    from whence.report.text import visible

    console = Console(stderr=True, highlight=False)
    shown = "\n".join(visible(line) for line in message.splitlines())  # file names and texts may hold escapes
    console.print(Text.assemble(("whence: ", "bold red"), shown), soft_wrap=True)
