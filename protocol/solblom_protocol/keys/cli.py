"""`solblom key fingerprint`: what two people read to each other over the phone before they trust a file."""

from pathlib import Path
from typing import Any

import typer

from solblom_protocol.console import JSON_OPTION, command, out, print_json, say

app = typer.Typer(
    help="Anyone: compare keys over the phone", no_args_is_help=True, add_completion=False
)


@app.callback()
def group() -> None:
    """Anyone: compare keys over the phone."""


@app.command("fingerprint")
@command
def show(
    files: list[Path] = typer.Argument(..., help="Public-keys files (….pub) or keys in PEM form"),
    as_json: bool = JSON_OPTION,
) -> None:
    """Print the fingerprints of keys: SHA-256 in groups of four. Of a private key, those of its public half."""
    from solblom_protocol.keys.public_keys import read_fingerprints

    rows = [{"file": str(file), **read_fingerprints(file)} for file in files]
    if as_json:
        print_json("solblom.key.fingerprint/1", {"keys": rows})
        return
    for row in rows:
        print_fingerprints(f"{row['name'] or 'key'}  {row['file']}", row)
    say("Read them to the other side on a number that you know. All groups must agree.")


def print_fingerprints(title: str, row: dict[str, Any]) -> None:
    """Print the fingerprints of one participant's keys; one that is missing is left out."""
    console = out()
    console.print(title, style="bold", markup=False)
    for word, name in (("signs", "signing"), ("opens", "sealing")):
        if row[name] is not None:
            console.print(f"  {word}  {row[name]}", markup=False)
