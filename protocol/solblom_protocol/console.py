"""How commands speak: data on stdout, everything else on stderr, one JSON object with `--json`."""

import json
import os
import sys
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeVar

import typer
from rich.console import Console

from solblom_protocol.errors import EXIT_INTERRUPTED, ConfigurationError, SolblomError

P = ParamSpec("P")
R = TypeVar("R")

MOST_QUOTED = 500  # characters, as many as a reason may have
JSON_OPTION = typer.Option(False, "--json", help="Print one JSON object on stdout")


def out() -> Console:
    """Return the console for data (stdout). No wrapping surprises when piped: 120 columns."""
    return Console(width=None if sys.stdout.isatty() else 120, highlight=False)


def err() -> Console:
    """Return the console for everything else (stderr)."""
    return Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else 120)


def say(text: str) -> None:
    """Print a line of progress on stderr, unless `-q` was given."""
    if os.environ.get("SOLBLOM_QUIET") != "1":
        err().print(text, markup=False)


def printable(text: str) -> str:
    """Return a text that does not steer the terminal: what is no letter, sign or space is spelt out."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


def quoted(text: str) -> str:
    """Return somebody else's words in quotation marks, which they cannot end: they do not pass as ours."""
    return printable(json.dumps(text[:MOST_QUOTED], ensure_ascii=False))


def print_json(schema: str, data: dict[str, Any]) -> None:
    """Print one object with its schema on stdout."""
    sys.stdout.write(json.dumps({"schema": schema, **data}, ensure_ascii=False, indent=2) + "\n")


class Finding(Protocol):
    """One check of something that was verified."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def ok(self) -> bool: ...  # noqa: D102
    @property
    def reason(self) -> str: ...  # noqa: D102


def print_checks(found: Iterable[Finding], not_checked: Iterable[str]) -> None:
    """Print a verdict's checks, a line each, then what was not checked."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    for check in found:
        mark = "[green]ok[/]" if check.ok else "[bold red]FAILED[/]"
        table.add_row(mark, check.name, escape(check.reason))
    console = out()
    console.print(table)
    console.print("not checked:", style="bold")
    for line in not_checked:
        console.print(f"  - {line}", markup=False)


def may_ask() -> bool:
    """Tell whether there is a person to ask: a terminal, and no `--no-input`."""
    return os.environ.get("SOLBLOM_NO_INPUT") != "1" and sys.stdin.isatty()


def named(error: SolblomError, name: str) -> SolblomError:
    """Return an error that says whom it concerns, where a command is about several."""
    if name in error.message:
        return error
    return type(error)(error.code, f"{name}: {error.message}", error.hint)


def read_given(path: Path) -> bytes:
    """Return the bytes of a file that was named on the command line.

    Raises:
        ConfigurationError: SB-101.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError("SB-101", f"{path} cannot be read: {error.strerror}") from None


def show_error(error: SolblomError, *, as_json: bool) -> None:
    """Print an error on stderr: what happened, then what to do."""
    if as_json:
        body = {"code": error.code, "message": error.message, "hint": error.hint}
        sys.stderr.write(json.dumps({"error": body}, ensure_ascii=False) + "\n")
        return
    console = err()
    console.print(f"[bold red]error[/][bold]\\[{error.code}][/]: ", end="")
    console.print(error.message, markup=False)
    console.print()
    console.print("[bold]hint[/]: ", end="")
    console.print(error.hint, markup=False)


def command(function: Callable[P, R]) -> Callable[P, R]:
    """Turn errors of Solblom into messages and exit statuses; the command itself stays plain."""

    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except SolblomError as error:
            show_error(error, as_json=bool(kwargs.get("as_json", False)))
            raise typer.Exit(error.exit_status) from None
        except KeyboardInterrupt as stop:
            for note in getattr(stop, "__notes__", []):
                say(note)
            raise typer.Exit(EXIT_INTERRUPTED) from None

    return wrapped
