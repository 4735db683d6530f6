"""From an index of slides to a folder of bags that the vault reads. All of it stays in the hospital.

A file of features is named by a digest of the slide and of the contract's recipe, so nothing is computed twice, and a
slide that changes is another one. No name of a slide and no patient id stands in it.
"""

import csv
import hashlib
import io
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from solblom_client.policy import DatasetTable, NodeConfig
from solblom_client.slides.pool import Job, Setup, run_jobs
from solblom_models.slide_mil.bag_file import (
    BagFileError,
    read_bag,
    read_facts,
    read_labels,
    read_pixels,
)
from solblom_models.slide_mil.bags import (
    FILE_COLUMN,
    SCANNER_COLUMN,
    BagIndex,
    index_rows,
    labels_of,
    places_of,
    scanners_of,
)
from solblom_models.slides.slide_features import SlideFacts
from solblom_models.slides.slide_files import slide_digests
from solblom_protocol.contracts.bags import BagContract, Encoder
from solblom_protocol.errors import ConfigurationError

BAGS = "bags"
MOST_SAID = 300  # letters of why a slide cannot be used
ANNOTATIONS_COLUMN = "annotations"


@dataclass(frozen=True)
class Row:
    """A line of the hospital's index of slides."""

    line: int
    patient: str
    slide: Path | None
    label: str
    scanner: str
    annotations: Path | None


@dataclass(frozen=True)
class MadeBags:
    """What came out, for the hospital's own people.

    Attributes:
        rows: of the index of slides.
        facts: of the slides that can be used, by line.
        problems: why the others cannot, by line.
        known: how many had been made before.
        bags: where the features of those that can be used lie, by line.
        index: the index of bags that the vault reads.
    """

    rows: tuple[Row, ...]
    facts: dict[int, SlideFacts]
    problems: dict[int, str]
    known: int
    bags: dict[int, Path]
    index: Path

    @property
    def patients(self) -> int:
        """Patients with at least one slide that can be used."""
        return len({row.patient for row in self.rows if row.line in self.facts})

    @property
    def carries(self) -> dict[str, int]:
        """How many slides carry each kind of what may identify a patient."""
        return dict(
            Counter(kind for line in sorted(self.facts) for kind in self.facts[line].carries)
        )

    @property
    def without(self) -> int:
        """Patients none of whose slides can be used."""
        return len({row.patient for row in self.rows}) - self.patients


def make_bags(
    config: NodeConfig,
    dataset: DatasetTable,
    contract: BagContract,
    *,
    labelled_tiles: bool,
    processes: int,
    progress: Callable[[int, int], None],
) -> MadeBags:
    """Read every slide of a data set and write its bags; a slide that cannot be used is left out, and counted.

    Args:
        config: of the node.
        dataset: with the connector `slides`.
        contract: of the study; its encoder runs here.
        labelled_tiles: each tile gets its code from the column `annotations`; else a slide has a label.
        processes: that read slides at the same time.
        progress: is told how many of how many are done.

    Raises:
        ConfigurationError: SB-103, SB-118 or SB-119.
        DataError: SB-301, SB-302 or SB-307, of the index itself.
        IntegrityError: SB-405, the encoder is not the one that the contract pins.
    """
    rows = _rows(config, dataset, contract, labelled_tiles=labelled_tiles)
    folder = config.path(dataset.source)
    (folder / BAGS).mkdir(parents=True, exist_ok=True, mode=0o750)
    problems = {row.line: reason for row in rows if (reason := _missing(row, labelled_tiles))}
    outs = _outs(rows, problems, folder / BAGS, contract)
    looked = {out: _known(out, contract, labelled_tiles=labelled_tiles) for out in outs.values()}
    facts = {line: known for line, out in outs.items() if (known := looked[out]) is not None}
    before = len(facts)
    # Two rows may name the same slide: it is read once.
    asked = {outs[row.line]: row for row in rows if row.line in outs and row.line not in facts}
    jobs = [Job(row.slide, out, row.annotations) for out, row in asked.items() if row.slide]
    answers = _answers(jobs, _setup(config, contract), processes, progress)
    for line, out in outs.items():
        if line in facts:
            continue
        answer = answers[out]
        try:
            facts[line] = SlideFacts.from_json(answer["facts"])
        except (KeyError, TypeError, ValueError):  # a problem, or a reader that a file took over
            told = str(answer.get("problem"))
            said = "problem" in answer and told.isprintable() and len(told) <= MOST_SAID
            problems[line] = told if said else "what read it gave no facts"
    index = folder / contract.features_index
    _write_index(index, dataset, contract, [row for row in rows if row.line in facts], outs)
    bags = {line: outs[line] for line in facts}
    return MadeBags(tuple(rows), facts, problems, before, bags, index)


def listed_encoder(config: NodeConfig, encoder: Encoder) -> Path | None:
    """Return the file that this hospital lists for an encoder; None for one that needs no file.

    Raises:
        ConfigurationError: SB-119, it is not on the hospital's list.
    """
    if encoder.kind not in ("torchscript", "onnx"):
        return None
    for listed in config.encoder:
        if listed.sha256 == encoder.sha256:
            return config.path(listed.file)
    raise ConfigurationError(
        "SB-119",
        f"The study's encoder {encoder.name} ({str(encoder.sha256)[:12]}…) is not on this hospital's list",
        "Once it is approved here, add to node.toml: [[encoder]] with file and sha256",
    )


def _rows(
    config: NodeConfig, dataset: DatasetTable, contract: BagContract, *, labelled_tiles: bool
) -> list[Row]:
    path = config.path(dataset.path)
    index = BagIndex(path, dataset.patient)
    wanted = (ANNOTATIONS_COLUMN,) if labelled_tiles else (contract.target.column,)
    found = index_rows(index, *wanted, optional=(SCANNER_COLUMN,))
    rows = []
    for line, (patient, file, cell, scanner) in enumerate(found, start=2):
        drawn = path.parent / cell if labelled_tiles and cell else None
        slide = path.parent / file if file else None
        rows.append(Row(line, patient, slide, "" if labelled_tiles else cell, scanner, drawn))
    # What the vault would refuse at approval is refused here, before hours of reading.
    patients = places_of(found)
    scanners_of([row.scanner for row in rows], patients.values())
    if not labelled_tiles:
        labels_of(found, patients, contract.target)
    return rows


def _missing(row: Row, labelled_tiles: bool) -> str | None:
    try:
        if row.slide is None:
            return "the index names no file"
        if not row.slide.is_file():
            return "there is no such file"
        if labelled_tiles and (row.annotations is None or not row.annotations.is_file()):
            return "its annotations are missing"
    except (OSError, ValueError):  # a name that no file can have, or a folder that may not be read
        return "it cannot be looked up"
    return None


def _outs(
    rows: Sequence[Row], problems: dict[int, str], folder: Path, contract: BagContract
) -> dict[int, Path]:
    """Return where each slide's features go; put slides that cannot be read into `problems`."""
    found: dict[int, Path] = {}
    for row in rows:
        if row.line in problems or row.slide is None:
            continue
        try:
            found[row.line] = folder / f"{_digest(row.slide, row.annotations, contract)[:40]}.h5"
        except OSError:
            problems[row.line] = "it cannot be read"
    return found


def _digest(slide: Path, annotations: Path | None, contract: BagContract) -> str:
    """Return a digest of all files of a slide, of the recipe, and of what was drawn and how it is read."""
    state = hashlib.sha256(str(contract.recipe).encode() + slide_digests(slide))
    if annotations is not None:
        drawn = hashlib.sha256(annotations.read_bytes()).digest()
        state.update(drawn + contract.features_index.encode())
    return state.hexdigest()


def _known(out: Path, contract: BagContract, *, labelled_tiles: bool) -> SlideFacts | None:
    """Return the facts of a slide whose features are there and whole; what the vault would refuse is made again."""
    if not out.is_file():
        return None
    try:
        facts, encoder = SlideFacts.from_json(read_facts(out)), contract.encoder
        if encoder.kind == "pixels":
            rows = len(read_pixels(out, tile_px=encoder.tile_px, recipe=contract.recipe))
        else:
            rows = len(read_bag(out, dim=encoder.dim, recipe=contract.recipe).features)
        if labelled_tiles:
            read_labels(out, contract.target.column, tiles=rows)
        if rows != facts.tiles * contract.cutting.views:
            raise ValueError("it has another number of tiles than it says")
    except (BagFileError, ValueError, TypeError, KeyError):
        out.unlink()
        return None
    return facts


def _setup(config: NodeConfig, contract: BagContract) -> Setup:
    file = listed_encoder(config, contract.encoder)
    return Setup(
        contract=contract.model_dump_json(),
        encoder=None if file is None else str(file),
        memory_gib=config.vault.memory_gib,
        isolation=config.vault.isolation,
        slide_minutes=config.vault.order_minutes,
    )


def _answers(
    jobs: Sequence[Job], setup: Setup, processes: int, progress: Callable[[int, int], None]
) -> dict[Path, dict[str, Any]]:
    finished = count(1)

    def done() -> None:
        progress(next(finished), len(jobs))

    answers = run_jobs(jobs, setup, processes=processes, done=done)
    return {job.out: answer for job, answer in zip(jobs, answers, strict=True)}


def _write_index(
    path: Path,
    dataset: DatasetTable,
    contract: BagContract,
    rows: Sequence[Row],
    outs: dict[int, Path],
) -> None:
    """Write the index of bags whole or not at all; what is the same slide of the same patient stands once."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    named = [dataset.patient, FILE_COLUMN, contract.target.column]
    scanners = any(row.scanner for row in rows)
    writer.writerow([*named, SCANNER_COLUMN] if scanners else named)
    lines = dict.fromkeys(
        (row.patient, f"{BAGS}/{outs[row.line].name}", row.label, row.scanner) for row in rows
    )
    for line in lines:
        writer.writerow(line if scanners else line[:3])
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(text.getvalue(), encoding="utf-8")
    part.chmod(0o640)
    part.replace(path)
