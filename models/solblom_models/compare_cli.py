"""`solblom model compare` and `solblom model receipt`: two models on one input, and one prediction looked up again."""

import datetime as dt
from pathlib import Path
from typing import Any

import typer

from solblom_models.model_options import PHENOPACKETS, RECEIPT_KEY
from solblom_protocol.console import JSON_OPTION, command, out, print_json, say
from solblom_protocol.errors import EXIT_INTEGRITY, ConfigurationError, IntegrityError
from solblom_protocol.home import HOME_OPTION

TRUST = typer.Option(
    None,
    "--trust",
    help="Trust file (default: that of the Solblom folder in which each model stands)",
)
SLIDES = typer.Option([], "--slide", help="A whole-slide image; again for each of the same patient")
ENCODERS = typer.Option(
    [], "--encoder", help="An encoder's file; again where the models pin different ones"
)
OUT = typer.Option(
    None,
    "--out",
    help="New folder: record, picture, and the lists of patients, readable by you only",
)
CHECK = typer.Option(
    None, "--check", help="Record of a comparison: make it again, exit 5 if it differs"
)
KEY = typer.Option(
    None, "--receipt-key", help="Key of the input's digest (default: prediction.key in --out)"
)


LONGEST_PATH = 100  # characters of a name in a record that differs

OLD = typer.Argument(..., help="name, name@v3, sha256:… or a folder")
NEW = typer.Argument(..., help="The model to compare it with, named likewise")
DATA = typer.Option(None, "--data", help="CSV or Parquet table, or an index of bags")
ID = typer.Option("patient_id", "--id", help="Column that names the patient")
TARGET = typer.Option(
    None, "--target", help="Column of the outcome (default: the contract's, if it is there)"
)
FAMILY = typer.Option(None, "--family", help="Column of families of a table")
THRESHOLD = typer.Option(0.5, "--threshold", help="A probability from here on is a yes")
TOLERANCE = typer.Option(1e-5, "--tolerance", help="How far apart two scores are still the same")
RESAMPLES = typer.Option(1000, "--resamples", help="Of the bootstrap")
OLD_OWN = typer.Option(
    None, "--old-recalibration", help="This hospital's own recalibration of the old model"
)
NEW_OWN = typer.Option(
    None, "--new-recalibration", help="This hospital's own recalibration of the new model"
)
REF = typer.Argument(..., help="The model: name, name@v3, sha256:… or a folder")
RECEIPT = typer.Argument(..., metavar="RECEIPT", help="What predict --receipt wrote")
INPUT = typer.Option(None, "--input", help="The table of then")
ENCODER = typer.Option(None, "--encoder", help="The encoder's file")
TOP = typer.Option(10, "--top", min=1, help="Diseases in a case's list, as then")
RECALIBRATION = typer.Option(
    None, "--recalibration", help="This hospital's own, if it was used then"
)
OUTPUT = typer.Option(
    None, "--output", help="What predict --json printed then: to compare within a tolerance"
)
OTHER_CODE = typer.Option(
    False, "--other-code", help="Accept another version of Solblom if the answer is the same"
)


@command
def compare(
    old: str = OLD,
    new: str = NEW,
    data: Path | None = DATA,
    phenopacket: Path | None = PHENOPACKETS,
    slide: list[Path] = SLIDES,
    id_column: str = ID,
    target: str | None = TARGET,
    family: str | None = FAMILY,
    threshold: float = THRESHOLD,
    tolerance: float = TOLERANCE,
    resamples: int = RESAMPLES,
    encoder: list[Path] = ENCODERS,
    old_recalibration: Path | None = OLD_OWN,
    new_recalibration: Path | None = NEW_OWN,
    out_folder: Path | None = OUT,
    check: Path | None = CHECK,
    receipt_key: Path | None = KEY,
    trust: Path | None = TRUST,
    home: Path | None = HOME_OPTION,
    as_json: bool = JSON_OPTION,
) -> None:
    """Verify two models, give both the same patients, and say what changes. Nothing of it leaves this hospital."""
    from solblom_models.comparison.comparing import Settings, write_comparison
    from solblom_models.comparison.comparing import compare as compare_models
    from solblom_models.comparison.inputs import Given

    given = Given(
        data=data,
        phenopackets=phenopacket,
        slides=tuple(slide),
        id_column=id_column,
        target=target,
        family=family,
        encoders=tuple(encoder),
        old_recalibration=old_recalibration,
        new_recalibration=new_recalibration,
    )
    settings = Settings(threshold=threshold, tolerance=tolerance, resamples=resamples)
    versions = [_version(ref, home, trust) for ref in (old, new)]
    key = _input_key(receipt_key, out_folder, check)
    found = compare_models(versions[0], versions[1], given, settings, key=key)
    if check is not None:
        _check_again(check, found.body, found.digest)
    files = [] if out_folder is None else write_comparison(found, out_folder)
    _print_comparison(found, files, as_json=as_json)


def _print_comparison(found: Any, files: list[Path], *, as_json: bool) -> None:
    from solblom_models.comparison.show import show_comparison

    if as_json:
        body = {name: part for name, part in found.body.items() if name != "schema"}
        more = {"record": found.digest, "files": [str(path) for path in files]}
        print_json("solblom.model.compare/1", body | more)
        return
    show_comparison(found.body)
    for path in files:
        say(f"Wrote {path}")
    say(f"Record {found.digest}")


def _version(ref: str, home: Path | None, trust: Path | None) -> Any:
    from solblom_models.artefact import load
    from solblom_models.comparison.pair import Version
    from solblom_models.trusted import pinned_trust, verified_model
    from solblom_models.withdrawn import say_if_withdrawn

    folder, verdict = verified_model(ref, home, trust, withdrawn_too=True)
    say_if_withdrawn(verdict, folder, pinned_trust(folder, trust)[1])
    return Version(
        load(folder), verdict.artefact or "", f"{verdict.name}@{verdict.version}", folder
    )


def _input_key(given: Path | None, out_folder: Path | None, check: Path | None) -> bytes:
    """Return the key of the input's digest; without a file to keep it in, one that is forgotten.

    Raises:
        ConfigurationError: SB-103, a record is to be checked without its key; SB-109, the file holds no key.
    """
    import os

    from solblom_models.prediction_receipt import KEY_BYTES, receipt_key
    from solblom_protocol.keys.key_files import read_secret

    if check is not None:
        path = given or check.parent / "prediction.key"
        if not path.exists():
            raise ConfigurationError("SB-103", "--check needs the --receipt-key of then")
        return read_secret(path, length=KEY_BYTES)
    where = given or (None if out_folder is None else out_folder / "prediction.key")
    return os.urandom(KEY_BYTES) if where is None else receipt_key(where)


def _check_again(path: Path, body: dict[str, Any], name: str) -> None:
    """Refuse a record that this comparison does not give.

    Raises:
        IntegrityError: SB-451, names what differs.
    """
    from solblom_models.comparison.patients import harmless
    from solblom_models.comparison.record import differing_parts, read_record
    from solblom_verify.canonical import canonical_json, digest

    then = read_record(path)
    paths = differing_parts(then, body)
    if paths:
        # The names are the record's own: whoever wrote it may not steer the terminal.
        shown = ", ".join(harmless(path[:LONGEST_PATH]) for path in paths)
        raise IntegrityError(
            "SB-451", f"The comparison made again differs from the record in {shown}"
        )
    if digest(canonical_json(then)) == name:
        say("Made again: the same record, to the last digit")
    else:
        say("Made again: the same, by another version of Solblom or another runtime")


@command
def receipt(
    ref: str = REF,
    receipt_file: Path = RECEIPT,
    data: Path | None = INPUT,
    id_column: str = ID,
    phenopacket: Path | None = PHENOPACKETS,
    slide: list[Path] = SLIDES,
    encoder: Path | None = ENCODER,
    top: int = TOP,
    recalibration: Path | None = RECALIBRATION,
    receipt_key: Path | None = RECEIPT_KEY,
    output: Path | None = OUTPUT,
    other_code: bool = OTHER_CODE,
    trust: Path | None = TRUST,
    home: Path | None = HOME_OPTION,
    as_json: bool = JSON_OPTION,
) -> None:
    """Verify a model, predict the same input again, and say whether it is what the receipt says; exit 5 if not."""
    from solblom_models.predict import Wanted, predictions, receipt_of
    from solblom_models.prediction_receipt import KEY_BYTES
    from solblom_models.receipt_check import PredictionReceipt as Receipt
    from solblom_models.receipt_check import compare_receipts, read_output, read_receipt
    from solblom_models.trusted import pinned_trust, verified_model
    from solblom_models.withdrawn import say_if_withdrawn
    from solblom_protocol.keys.key_files import read_secret

    then = read_receipt(receipt_file)
    key = read_secret(receipt_key or receipt_file.parent / "prediction.key", length=KEY_BYTES)
    printed = None if output is None else read_output(output)
    folder, verdict = verified_model(ref, home, trust, withdrawn_too=True)
    say_if_withdrawn(verdict, folder, pinned_trust(folder, trust)[1])
    wanted = Wanted(data, id_column, phenopacket, top, recalibration, tuple(slide), encoder)
    found = predictions(folder, verdict, wanted)
    again = Receipt.model_validate(receipt_of(found, key, now=dt.datetime.now(dt.UTC)))
    outputs = found.as_json()
    result = compare_receipts(then, again, printed=printed, outputs=outputs, other_code=other_code)
    if as_json:
        body = {"ok": result.ok, "model": found.artefact, "ref": found.ref}
        print_json("solblom.model.receipt/1", {**body, "lines": result.as_json()})
    else:
        _print_receipt(result, found.ref, then.created)
    if not result.ok:
        raise typer.Exit(EXIT_INTEGRITY)


def _print_receipt(result: Any, ref: str, created: str) -> None:
    from rich.table import Table
    from rich.text import Text

    from solblom_models.comparison.patients import harmless

    marks = {True: "[green]ok[/]", False: "[bold red]DIFFERS[/]", None: "[yellow]differs[/]"}
    table = Table(box=None, show_header=False, pad_edge=False)
    for line in result.lines:
        table.add_row(marks[line.ok], line.name, Text(harmless(line.reason)))
    out().print(table)
    if result.ok:
        out().print(f"[bold green]THE SAME[/]  {ref} says of this input what it said {created}")
    else:
        out().print("[bold red]NOT THE SAME[/]  What differs is named above.")
