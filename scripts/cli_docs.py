"""Writes docs/cli.md from the command line's own help, so that the page is what the program says.

    python scripts/cli_docs.py           write it
    python scripts/cli_docs.py --check   exit with 1 if it is stale

A test runs the check.
"""

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

from whence.cli.commands import app

PAGE = Path(__file__).resolve().parent.parent / "docs" / "cli.md"
HEAD = """# Command line

<!-- Written by scripts/cli_docs.py (make docs); edit the help texts in src/whence/cli instead. -->

`whence COMMAND --help` prints the same. Errors are one message on stderr and exit status 2; Ctrl-C is 130, and what was
finished by then is kept. Settings that have no option are set in a TOML file given with `--config`, under the names of
[the run's settings](format.md#runjson).
"""
KINDS = {"str": "text", "Path": "path", "int": "integer", "float": "number"}


def page() -> str:
    """The whole page."""
    parts = [section(command) for command in app.registered_commands]
    for group in app.registered_groups:
        parts += [section(command, f"{group.name} ") for command in group.typer_instance.registered_commands]
    return HEAD + "".join(parts)


def section(found: Any, group: str = "") -> str:
    """One command: what it does and a table of its options."""
    command: Callable[..., Any] = found.callback
    name = group + (found.name or command.__name__)
    hints = get_type_hints(command, include_extras=True)
    defaults = inspect.signature(command).parameters
    rows = [row(each, *get_args(hints[each]), defaults[each].default) for each in defaults]
    positional = [each.upper() for each in defaults if not is_option(get_args(hints[each])[1])]
    usage = " ".join([f"whence {name}", *positional, "[OPTIONS]"])
    table = "| option | value | meaning |\n|---|---|---|\n" + "".join(rows)
    return f"\n## whence {name}\n\n{inspect.getdoc(command)}\n\n```\n{usage}\n```\n\n{table}"


def is_option(info: Any) -> bool:
    """Whether it is typed with dashes."""
    return type(info).__name__ == "OptionInfo"


def row(name: str, kind: Any, info: Any, default: Any) -> str:
    """One line of the table."""
    # in Annotated, typer keeps the first of an option's names where a default would be
    shown = [each for each in (info.default, *(info.param_decls or ())) if isinstance(each, str)]
    if not shown:
        shown = [f"--{name}{f'/--no-{name}' * (kind is bool)}".replace("_", "-") if is_option(info) else name.upper()]
    return f"| {', '.join(f'`{each}`' for each in shown)} | {value(kind)} | {meaning(info.help, kind, default)} |\n"


def value(kind: Any) -> str:
    """What is given with it."""
    parts = [part for part in get_args(kind) if part is not type(None)] or [kind]
    inner = get_args(parts[0]) or parts
    return KINDS.get(getattr(inner[0], "__name__", ""), "")


def meaning(text: str, kind: Any, default: Any) -> str:
    """Its help and its default."""
    escaped = text.replace("|", "\\|").replace("*", "\\*").replace("[", "\\[")
    if default is inspect.Parameter.empty:
        return f"{escaped} Required."
    return escaped if default in (None, "", False) else f"{escaped} Default: `{'yes' if default is True else default}`."


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        stale = not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page()
        sys.exit("docs/cli.md is stale: run scripts/cli_docs.py" if stale else 0)
    PAGE.write_text(page(), encoding="utf-8")
