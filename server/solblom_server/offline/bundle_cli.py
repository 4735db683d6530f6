"""`solblom coordinator bundle`: a node's packages in one signed folder, for hospitals without internet."""

import datetime as dt
from pathlib import Path

import typer

from solblom_protocol.console import JSON_OPTION, command, print_json, say
from solblom_protocol.errors import IntegrityError
from solblom_protocol.home import HOME_OPTION, find_home

app = typer.Typer(help="Operator: offline bundles", add_completion=False)
KEY_FILE = Path("keys") / "coordinator-signing.key"  # below the Solblom folder


@app.command("bundle")
@command
def bundle(
    into: Path = typer.Option(..., "--out", help="New folder"),
    source: Path = typer.Option(
        Path(), "--source", help="A copy of Solblom's repository (default: this folder)"
    ),
    extra: list[str] = typer.Option(
        [], "--extra", help="What hospitals need besides, such as parquet or slides; several"
    ),
    key: Path | None = typer.Option(
        None, "--key", help="Ed25519 private key that signs (default: the coordinator's)"
    ),
    home: Path | None = HOME_OPTION,
    as_json: bool = JSON_OPTION,
) -> None:
    """Make a folder with all that a hospital's node needs, for a machine without internet; pip does the work."""
    from solblom_protocol.keys.key_files import fingerprint, read_signing_key
    from solblom_protocol.offline.bundle import this_machine
    from solblom_protocol.offline.check import check_bundle
    from solblom_server.offline.building import Source, build

    signing = read_signing_key(key if key is not None else find_home(home) / KEY_FILE)
    say("pip builds and collects the packages of a node. This takes minutes.")
    made = build(Source.read(source), into, signing, extras=extra, now=dt.datetime.now(dt.UTC))
    verdict = check_bundle(into, signing.public_key(), here=this_machine())
    if not verdict.holds or verdict.number is None:
        raise IntegrityError("SB-405", f"{into} is not what was written a moment ago")
    wheels, size = len(made.wheels), sum(file.size for file in made.files)
    if as_json:
        body = {"path": str(into), "version": made.version, "wheels": wheels, "bytes": size}
        body |= {"machine": made.machine.model_dump(), "extras": list(made.extras)}
        body |= {"number": verdict.number, "fingerprint": fingerprint(signing.public_key())}
        print_json("solblom.coordinator.bundle/1", body)
    needs = f"Python {made.machine.python} on {made.machine.system} {made.machine.processor}"
    libc = "" if made.machine.glibc is None else f", glibc {made.machine.glibc} or newer"
    say(f"Made {into}: {wheels} packages, {size / 2**20:.0f} MiB, for {needs}{libc}.")
    if any(wheel.name.startswith("nvidia-") for wheel in made.wheels):
        say("LOOK  PyTorch came with CUDA. Without GPUs, give pip an index of CPU wheels instead.")
    say("Carry the folder to the hospital. It begins with INSTALL.en.txt or INSTALL.no.txt.")
    say(f"Read this over the phone when they ask which bundle it is: {verdict.number}")
