"""The `solblom` command: groups come from the parts that are installed, and are loaded when they are used.

A hospital without the coordinator's part has no `study` group. No torch and no Flower at `--help`.
"""

import os
import sys
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import click
import typer
from typer.core import TyperGroup
from typer.main import get_command

from solblom_protocol import __version__

# Nothing phones home (architecture.md); must be set before Flower is imported anywhere.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
# For the processes that a command starts: glibc asks the kernel for large pages, and copies of a large
# model take less time (docs/adr/0009).
os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")

GROUP = "solblom.commands"
SUMMARIES = {
    "demo": "Train a model across simulated or real public hospitals on this machine",
    "study": "Researcher: write, check, sign and start a study",
    "run": "Researcher: see and resume runs",
    "data": "Researcher: mock data that obey a contract",
    "node": "Hospital: set up and run a node, approve studies, see budgets",
    "permit": "Issuer: permits for studies, and their revocation",
    "key": "Anyone: compare keys over the phone",
    "coordinator": "Operator: set up and start the coordinator",
    "model": "Steward: list, verify and use models",
    "audit": "Steward: test privacy claims, check logs",
    "steward": "Steward: the page and reports",
}
PARTS = {
    "demo": "simulation",
    "study": "server",
    "run": "server",
    "coordinator": "server",
    "steward": "server",
    "audit": "server",
    "data": "models",
    "model": "models",
    "node": "client",
}
"""Which folder of the repository brings a noun, for whoever looks for it where that part is not installed."""


def _installed() -> dict[str, list[EntryPoint]]:
    found: dict[str, list[EntryPoint]] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.value):
        found.setdefault(point.name, []).append(point)
    return found


class InstalledGroups(TyperGroup):
    """A command group whose members are the nouns of the installed parts."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the nouns, in the order of `SUMMARIES`."""
        order = list(SUMMARIES)
        names = _installed()
        return sorted(names, key=lambda n: (order.index(n) if n in order else len(order), n))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load a noun; where several parts offer verbs for it, join them."""
        if cmd_name not in _installed():
            if cmd_name in PARTS and not ctx.resilient_parsing:
                part = PARTS[cmd_name]
                ctx.fail(
                    f"`{cmd_name}` comes with another part: `pip install ./{part}` in a copy of the repository."
                )
            return None
        if ctx.resilient_parsing or "--help" in sys.argv[1:2] or len(sys.argv) == 1:
            # Only the list of nouns is wanted: do not import any part.
            return click.Group(cmd_name, help=SUMMARIES.get(cmd_name))
        return load_group(cmd_name)


def load_group(noun: str) -> click.Command:
    """Import all parts that offer `noun` and return one command for it."""
    commands = [get_command(point.load()) for point in _installed()[noun]]
    first = commands[0]
    for other in commands[1:]:
        if isinstance(first, click.Group) and isinstance(other, click.Group):
            for name, verb in other.commands.items():
                first.add_command(verb, name)
    first.name = noun
    return first


app = typer.Typer(
    cls=InstalledGroups,
    help="Solblom: federated learning for hospitals. Patient data stay where they are.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"solblom {__version__}")
        raise typer.Exit


@app.callback()
def root(
    quiet: bool = typer.Option(False, "--quiet", "-q", help="No progress on stderr"),
    verbose: bool = typer.Option(False, "--verbose", "-v", help="More detail on stderr"),
    no_input: bool = typer.Option(False, "--no-input", help="Never ask a question"),
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Show the version"
    ),
) -> None:
    """Solblom: federated learning for hospitals. Patient data stay where they are."""
    for name, value in (("QUIET", quiet), ("VERBOSE", verbose), ("NO_INPUT", no_input)):
        if value:
            os.environ[f"SOLBLOM_{name}"] = "1"


def main() -> Any:
    """Run the command line."""
    return app()
