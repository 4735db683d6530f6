"""`solblom node bundle verify`: is a folder of packages the one that the federation's operator has signed."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from solblom_protocol.console import JSON_OPTION, command, out, print_checks, print_json
from solblom_protocol.errors import EXIT_CHECK_SAID_NO, EXIT_INTEGRITY, ConfigurationError

if TYPE_CHECKING:
    from solblom_protocol.offline.check import BundleVerdict

app = typer.Typer(
    help="Packages for machines without internet", no_args_is_help=True, add_completion=False
)


@app.callback()
def group() -> None:
    """Packages for machines without internet."""


@app.command("verify")
@command
def verify(
    folder: Path = typer.Argument(..., help="The bundle"),
    key: Path = typer.Option(
        ..., "--key", help="The signer's public key: coordinator.pub, or a key in PEM form"
    ),
    as_json: bool = JSON_OPTION,
) -> None:
    """Check signature and every file of an offline bundle; say what was not checked. Exit 5: it does not hold."""
    from solblom_protocol.keys.public_keys import read_verification_key
    from solblom_protocol.offline.bundle import this_machine
    from solblom_protocol.offline.check import check_bundle

    if not folder.is_dir():
        raise ConfigurationError("SB-101", f"{folder} is no folder")
    verdict = check_bundle(folder, read_verification_key(key), here=this_machine())
    if as_json:
        checks = [asdict(check) for check in verdict.checks]
        body = {"ok": verdict.fits, "path": str(folder), "number": verdict.number}
        print_json(
            "solblom.node.bundle.verify/1",
            {**body, "checks": checks, "not_checked": list(verdict.not_checked)},
        )
    else:
        _print(verdict, folder)
    if not verdict.holds:
        raise typer.Exit(EXIT_INTEGRITY)
    if not verdict.fits:
        raise typer.Exit(EXIT_CHECK_SAID_NO)


def _print(verdict: "BundleVerdict", folder: Path) -> None:
    console = out()
    console.print(f"Verifying {folder}", style="dim", markup=False)
    print_checks(verdict.checks, verdict.not_checked)
    if verdict.number is not None:
        console.print(f"number, for the phone: {verdict.number}", markup=False)
    if not verdict.holds:
        console.print("[bold red]NOT VERIFIED[/]  Do not install from this folder.")
    elif not verdict.fits:
        console.print("[bold yellow]VERIFIED[/], but it is made for another machine than this one.")
    else:
        made = "" if verdict.manifest is None else f"  Solblom {verdict.manifest.version}"
        console.print(f"[bold green]VERIFIED[/]{made}")
