"""`solblom model predict`: one verified model, one input, and what is shown of it."""

import csv
import datetime as dt
import io
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from solblom_models.artefact import LoadedModel, load
from solblom_models.phenotype.net import Ranker
from solblom_models.phenotype.phenopacket import Case
from solblom_models.phenotype.prediction import (
    NOTE,
    RankedCase,
    as_json,
    explains_terms,
    pheval_rows,
    ranked_cases,
    read_new_cases,
)
from solblom_models.prediction_receipt import prediction_receipt, receipt_key
from solblom_models.recalibration import RecalibrationFile, read_recalibration
from solblom_models.slides.slide_files import slide_digests
from solblom_models.tabular.data import read_inputs, table_contract
from solblom_models.tabular.harmonise import Harmonisation, harmonise
from solblom_models.tabular.table_file import read_table
from solblom_models.task import RankingTask
from solblom_protocol.console import out, say
from solblom_protocol.contracts.bags import BagContract
from solblom_protocol.errors import ConfigurationError, DataError, RunError
from solblom_protocol.keys.key_files import write_new
from solblom_verify.artefact import Verdict
from solblom_verify.wording import counted

if TYPE_CHECKING:
    from solblom_models.slides.prediction import SlidePrediction

RESEARCH = "Research use: not for clinical decisions"
SIMULATED = "It was trained in a simulation"
NOT_WHOLE = "Its intercept stays at each hospital: fit one first (solblom node recalibrate)"
SHOWN_CASES = 5  # lists on a screen


@dataclass(frozen=True)
class Wanted:
    """What a person asks for: a table, perhaps recalibrated; phenopackets and a length; or a patient's slides."""

    table: Path | None
    id_column: str
    phenopackets: Path | None
    top: int
    recalibration: Path | None = None
    slides: tuple[Path, ...] = ()
    encoder: Path | None = None


@dataclass(frozen=True)
class Predictions:
    """What a model says: `rows` for tables, `cases` for phenopackets, of which `read` is what was read, or `slides`."""

    model: LoadedModel
    artefact: str
    ref: str
    sources: tuple[Path, ...]
    rows: list[dict[str, Any]] = field(default_factory=list)
    cases: list[RankedCase] = field(default_factory=list)
    read: list[Case] = field(default_factory=list, repr=False)
    reading: dict[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    recalibrated: RecalibrationFile | None = None
    slides: "SlidePrediction | None" = None

    def as_json(self) -> dict[str, Any]:
        """Return what is printed with --json."""
        base: dict[str, Any] = {"model": self.artefact, "ref": self.ref, "use": "research"}
        if self.slides is not None:
            return {**base, "notes": list(self.warnings), **self.slides.as_json()}
        if not self.cases:
            own = self.recalibrated
            if (
                own is not None
            ):  # whose, never its numbers: they are this hospital's patients without noise
                base["recalibrated"] = {"site": own.site, "created": own.created}
            return {**base, "predictions": self.rows}
        cases = [as_json(case) for case in self.cases]
        return {**base, "notes": list(self.warnings), "reading": self.reading, "cases": cases}

    def write_pheval(self, folder: Path) -> None:
        """Write one table a case into a new folder, of all diseases.

        Raises:
            ConfigurationError: SB-103 the model ranks nothing; SB-113 the folder holds such a table.
        """
        net = self.model.net
        if not isinstance(net, Ranker):
            raise ConfigurationError("SB-103", "--pheval belongs to a model that ranks diseases")
        whole = ranked_cases(net, self.read, top=len(net.knowledge.names))
        names = [_file_name(case.case) for case in whole]
        for number, (case, name) in enumerate(zip(whole, names, strict=True)):
            unique = name if names.count(name) == 1 else f"{name}-{number + 1}"
            path = folder / "pheval_disease_results" / f"{unique}-disease_result.tsv"
            write_new(path, pheval_rows(case).encode(), mode=0o644)

    def write_heatmaps(self, file: Path) -> list[Path]:
        """Write what a pathologist looks at, for each slide; return the files.

        Raises:
            ConfigurationError: SB-103 there is no slide; SB-113 a file exists.
        """
        from solblom_models.slides.prediction import write_heatmaps

        if self.slides is None:
            raise ConfigurationError("SB-103", "--heatmap belongs to --slide")
        return write_heatmaps(self.slides, self.model, file, ref=self.ref)


def predictions(folder: Path, verdict: Verdict, wanted: Wanted) -> Predictions:
    """Return what the model in a verified folder says of the input.

    Raises:
        RunError: SB-506, the input does not fit the model or is not there.
    """
    model = load(folder)
    artefact, ref = verdict.artefact or "", f"{verdict.name}@{verdict.version}"
    if wanted.slides:
        return slide_predictions(model, artefact, ref, wanted)
    if isinstance(model.contract, BagContract):
        raise RunError("SB-506", f"The task {model.task.name} takes --slide, and nothing else")
    ranks = isinstance(model.task, RankingTask)
    path = wanted.phenopackets if ranks else wanted.table
    other = wanted.table if ranks else wanted.phenopackets
    if path is None or other is not None:
        option = "--phenopacket" if ranks else "--input"
        raise RunError("SB-506", f"The task {model.task.name} takes {option}, and nothing else")
    if not path.exists():
        raise RunError("SB-506", f"{path} does not exist")
    if ranks:
        if wanted.recalibration is not None:
            raise RunError("SB-506", "--recalibration belongs to a model of probabilities")
        return _ranked(model, artefact, ref, path, wanted.top)
    return _probabilities(model, artefact, ref, path, wanted)


def check_new_files(heatmap: Path | None, receipt: Path | None, *, slides: int) -> None:
    """Refuse what could not be written, before hours of reading.

    Raises:
        ConfigurationError: SB-103 a heatmap without slides, or that is no PNG; SB-113 a file exists.
    """
    if receipt is not None and receipt.exists():
        raise ConfigurationError("SB-113", f"{receipt} exists already")
    if heatmap is None:
        return
    from solblom_models.slides.prediction import heatmap_paths
    from solblom_models.slides.slide_pictures import new_files

    if not slides:
        raise ConfigurationError("SB-103", "--heatmap belongs to --slide")
    if heatmap.suffix.lower() != ".png":
        raise ConfigurationError(
            "SB-103",
            f"--heatmap writes a PNG, and {heatmap} is none",
            "Give a name that ends in .png",
        )
    for path in heatmap_paths(heatmap, slides):
        new_files(path)


def slide_predictions(model: LoadedModel, artefact: str, ref: str, wanted: Wanted) -> Predictions:
    """Return what a model says of one patient's slides.

    Raises:
        RunError: SB-506, a slide cannot be used, or other inputs are given too.
    """
    from solblom_models.slides.prediction import predict_slides

    if wanted.table or wanted.phenopackets or wanted.recalibration:
        raise RunError(
            "SB-506", "--slide goes with --encoder and --heatmap, and with no other input"
        )
    for path in wanted.slides:
        if not path.exists():
            raise RunError("SB-506", f"{path} does not exist")
    found = predict_slides(model, wanted.slides, encoder_file=wanted.encoder)
    made_up = (SIMULATED,) if model.manifest.get("simulation") else ()
    warnings = (RESEARCH, *made_up, *found.warnings)
    return Predictions(model, artefact, ref, wanted.slides, warnings=warnings, slides=found)


AS_THE_CONTRACT = (
    "--id names the column of ids. The table must be in the contract's units and codes: "
    "no node.toml is read here"
)


def _probabilities(
    model: LoadedModel, artefact: str, ref: str, path: Path, wanted: Wanted
) -> Predictions:
    if model.task.name != "tabular-classification":
        raise RunError("SB-506", f"A table does not fit the task {model.task.name}")
    try:
        contract = table_contract(model.document)
        table = read_table(path, id_column=wanted.id_column, contract=contract)
        units = read_inputs(harmonise(table, contract, Harmonisation()), contract)
    except DataError as error:
        raise RunError("SB-506", error.message, AS_THE_CONTRACT) from None
    scores, own = model.task.scores(model.net, units), None
    if wanted.recalibration is not None:
        own = read_recalibration(wanted.recalibration, model=artefact)
        scores = own.recalibration.apply(scores)
    rows = [
        {"id": name, "probability": round(float(score), 6)}
        for name, score in zip(units.ids, scores, strict=True)
    ]
    warnings: tuple[str, ...] = (RESEARCH,)
    if own is None and model.task.local_parameters(model.document):
        warnings = (RESEARCH, NOT_WHOLE)
    return Predictions(
        model, artefact, ref, (path,), rows=rows, warnings=warnings, recalibrated=own
    )


def _ranked(model: LoadedModel, artefact: str, ref: str, path: Path, top: int) -> Predictions:
    if not isinstance(model.net, Ranker):
        raise RunError("SB-506", f"The net of the task {model.task.name} is no ranker")
    try:
        cases, reading = read_new_cases(path, model.document)
    except DataError as error:
        raise RunError("SB-506", error.message) from None
    if not cases:
        told = "; ".join(f"{reason}: {count}" for reason, count in reading.items() if count)
        raise RunError("SB-506", f"No case can be read there ({told})")
    warnings = [RESEARCH, NOTE]
    if not explains_terms(model.net):
        warnings.append(
            "Points of terms are those of public knowledge; the perceptron adds its own"
        )
    return Predictions(
        model,
        artefact,
        ref,
        (path,),
        cases=ranked_cases(model.net, cases, top=top),
        read=cases,
        reading=reading,
        warnings=tuple(warnings),
    )


def input_bytes(sources: Sequence[Path], *, slides: bool) -> bytes:
    """Return the input; of slides, which are large, the SHA-256 of each of their files."""
    if slides:
        return b"".join(slide_digests(path) for path in sources)
    (path,) = sources
    if path.is_file():
        return path.read_bytes()
    files = sorted(child for child in path.rglob("*") if child.is_file())
    return b"".join(child.read_bytes() for child in files)


def receipt_of(found: Predictions, key: bytes, *, now: dt.datetime) -> dict[str, Any]:
    """Return the receipt of a prediction; `key` is that of the digest of its input."""
    return prediction_receipt(
        found.model,
        artefact=found.artefact,
        ref=found.ref,
        inputs=input_bytes(found.sources, slides=found.slides is not None),
        outputs=found.as_json(),
        recalibration=found.recalibrated,
        key=key,
        warnings=found.warnings,
        now=now,
    )


def write_receipt(found: Predictions, path: Path, key: Path, *, now: dt.datetime) -> None:
    """Write the receipt of a prediction into a new file.

    Raises:
        ConfigurationError: SB-113 the file exists; SB-109 the key file holds no key.
    """
    receipt = receipt_of(found, receipt_key(key), now=now)
    write_new(path, json.dumps(receipt, indent=1, sort_keys=True).encode() + b"\n", mode=0o644)


def show(found: Predictions) -> None:
    """Print predictions for a person: CSV for a table, a list for each case, the tiles that mattered for slides."""
    if found.slides is not None:
        _show_slides(found, found.slides)
        return
    if not found.cases:
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, fieldnames=["id", "probability"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(found.rows)
        sys.stdout.write(buffer.getvalue())
        own = found.recalibrated
        whose = "" if own is None else f", recalibrated at {own.site}"
        say(
            f"{counted(len(found.rows), 'row')}, {found.ref}{whose}. "
            + ". ".join(found.warnings)
            + "."
        )
        return
    for case in found.cases[:SHOWN_CASES]:
        _show_case(case)
    if len(found.cases) > SHOWN_CASES:
        say(f"{len(found.cases) - SHOWN_CASES} more; --json or --pheval has all of them")
    for reason, count in found.reading.items():
        if reason not in ("documents", "cases", "features", "used features"):
            say(f"Read: {reason}: {count}")
    say(f"{counted(len(found.cases), 'case')}, {found.ref}. " + ". ".join(found.warnings) + ".")


def _show_slides(found: Predictions, slides: "SlidePrediction") -> None:
    contract = found.model.contract
    if isinstance(contract, BagContract):
        out().print(
            f"{contract.target.meaning.en}: probability {slides.probability:.3f}", markup=False
        )
    for number, slide in enumerate(slides.as_json()["slides"], start=1):
        facts, half = slide["facts"], slide["tile_side"] / 2
        title = (
            f"slide {number}: {facts['tiles']:,} tiles, {facts['tissue_mm2']:.1f} mm² of tissue, "
            f"{facts['blurred']:,} tiles out of focus, scanned at {facts['microns_per_pixel']:.3g} µm/px"
        )
        out().print(title, markup=False)
        table = Table(box=None)
        for column in ("", "x", "y", slides.kind):
            table.add_column(column, justify="left" if not column else "right")
        for name in ("highest", "lowest"):
            for tile in slide[name]:
                middle = [str(round(tile[axis] + half)) for axis in "xy"]
                table.add_row(name, *middle, f"{tile['score']:+.3f}")
        out().print(table, markup=False)
    say(f"{found.ref}. " + ". ".join(found.warnings) + ".")
    say(
        "Places are of a tile's middle, in pixels of the slide's largest level from its upper left corner."
    )


def _show_case(case: RankedCase) -> None:
    table = Table(
        title=f"{case.case}: {counted(case.used_terms, 'term')} used", title_justify="left"
    )
    for column in ("rank", "disease", "score", "what speaks for it and against it"):
        table.add_column(column, justify="right" if column in ("rank", "score") else "left")
    for entry in case.diseases:
        told = "; ".join(
            f"{'no ' if t.excluded else ''}{t.name} {t.points:+.2f}" for t in entry.terms
        )
        name = f"{entry.name}\n{entry.disease}"
        table.add_row(str(entry.rank), name, f"{entry.score:+.2f}", told)
    out().print(table, markup=False)
    if case.unused_terms:
        say(
            f"{counted(case.unused_terms, 'term')} of {case.case} say nothing in this study's label space"
        )


def _file_name(case: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", case)[:120] or "case"
