"""The same input read for both models: each by its own contract, or refused where it cannot serve both."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from solblom_models.comparison.contracts import differing_variables
from solblom_models.comparison.pair import RankedPair, ScoredPair, Unit, Version
from solblom_models.comparison.ranked_inputs import ranked_pair
from solblom_models.metrics import Labels, Scores
from solblom_models.patient_id import check_ids
from solblom_models.recalibration import read_recalibration
from solblom_models.slide_mil.bags import BagIndex
from solblom_models.tabular.data import TableUnits, encode, labels_of, table_contract
from solblom_models.tabular.harmonise import Harmonisation, harmonise
from solblom_models.tabular.table_file import Table, read_table
from solblom_models.task import RankingTask, Units
from solblom_protocol.contracts.bags import BagContract
from solblom_protocol.contracts.table import Contract, Target
from solblom_protocol.errors import DataError, RunError
from solblom_protocol.messages.message import as_json
from solblom_verify.canonical import file_digest

SHOWN_PARTS = 8  # of contracts that differ, in a message


@dataclass(frozen=True)
class Given:
    """What a person hands in: one input, for both models.

    Attributes:
        data: a table, or an index of bags.
        phenopackets: a file or a folder.
        slides: of one patient.
        id_column: of a table or an index.
        target: column of the outcome; None takes the contract's, if the table has it.
        family: column of families of a table.
        encoders: files, of which each model takes the one that its contract pins.
        old_recalibration, new_recalibration: this hospital's own.
    """

    data: Path | None = None
    phenopackets: Path | None = None
    slides: tuple[Path, ...] = ()
    id_column: str = "patient_id"
    target: str | None = None
    family: str | None = None
    encoders: tuple[Path, ...] = ()
    old_recalibration: Path | None = None
    new_recalibration: Path | None = None

    @property
    def sources(self) -> tuple[Path, ...]:
        """The input's files or folders."""
        one = self.data or self.phenopackets
        return self.slides or (() if one is None else (one,))


def read_pair(old: Version, new: Version, given: Given) -> ScoredPair | RankedPair:
    """Return the input's patients as both models see them.

    Raises:
        RunError: SB-506, the models answer different questions, or the input does not serve both.
        ConfigurationError: SB-103, a recalibration of another model; SB-115 to SB-119 as for predictions.
    """
    check_question(old, new, given)
    if isinstance(old.model.task, RankingTask):
        return ranked_pair(old, new, given.sources[0])
    read = _tables if old.model.task.connector == "table" else _bags
    try:
        pair = (_slides if given.slides else read)(old, new, given)
    except RunError as error:
        raise RunError(error.code, error.message + _why(old, new), error.hint) from None
    return _recalibrated(pair, old, new, given)


def _why(old: Version, new: Version) -> str:
    """Return in what the contracts differ, to stand behind what one of them could not read."""
    names = [
        str(entry["what"])
        for entry in differing_variables(as_json(old.model.contract), as_json(new.model.contract))
    ]
    if not names:
        return ""
    more = f" and {len(names) - SHOWN_PARTS} more" if len(names) > SHOWN_PARTS else ""
    return f". The contracts differ in {', '.join(names[:SHOWN_PARTS])}{more}"


def check_question(old: Version, new: Version, given: Given) -> None:
    """Refuse two models of different tasks, and another input than their task takes; nothing is read.

    Raises:
        RunError: SB-506.
    """
    one, other = old.model.task, new.model.task
    if one.name != other.name:
        raise RunError(
            "SB-506",
            f"The old model's task is {one.name}, the new one's {other.name}: no input serves both",
        )
    kinds = {"--data": given.data, "--phenopacket": given.phenopackets, "--slide": given.slides}
    handed = [name for name, value in kinds.items() if value]
    fitting = {
        "table": ["--data"],
        "phenopackets": ["--phenopacket"],
        "bags": ["--data", "--slide"],
    }
    fits = fitting.get(one.connector, [])
    if len(handed) != 1 or handed[0] not in fits:
        words = " or ".join(fits) or "no input of this command"
        raise RunError("SB-506", f"The task {one.name} takes {words}, and nothing else")
    for path in given.sources:
        if not path.exists():
            raise RunError("SB-506", f"{path} does not exist")
    if given.family is not None and one.connector != "table":
        raise RunError("SB-506", "--family belongs to tables; other inputs say it themselves")


def _tables(old: Version, new: Version, given: Given) -> ScoredPair:
    read = [_table(version, given) for version in (old, new)]
    tables, targets = [table for table, _, _ in read], [target for _, target, _ in read]
    check_same_ids(tables[0].ids, tables[1].ids)
    scores = [v.model.task.scores(v.model.net, r[2]) for v, r in zip((old, new), read, strict=True)]
    labels = _one_outcome(
        [_outcome(t, target, given) for t, target in zip(tables, targets, strict=True)]
    )
    ids = tables[0].ids
    families = tables[0].families
    groups = (
        ids if families is None else [f or f"\0{i}" for f, i in zip(families, ids, strict=True)]
    )
    unit: Unit = "patient" if families is None else "family"
    return ScoredPair(ids, _numbered(groups), unit, labels, scores[0], scores[1])


def _table(version: Version, given: Given) -> tuple[Table, Target, TableUnits]:
    if given.data is None:
        raise RunError("SB-506", "A table is needed")
    contract = table_contract(version.model.document)
    if given.target is not None:
        contract = _with_target(contract, given.target)
    try:
        table = read_table(
            given.data,
            id_column=given.id_column,
            contract=contract,
            family_column=given.family,
        )
        check_ids(table.ids)
        features = encode(harmonise(table, contract, Harmonisation()), contract)
    except DataError as error:
        raise RunError("SB-506", f"{version.ref} cannot read it: {error.message}") from None
    if not table.ids:
        raise RunError("SB-506", "The table has no patients")
    units = TableUnits(table.ids, features, np.zeros(len(table.ids), dtype=np.int64))
    return table, contract.target, units


def _with_target(contract: Contract, column: str) -> Contract:
    if column in {variable.column for variable in contract.variable}:
        raise RunError("SB-506", "--target names a variable that the models read")
    target = contract.target.model_copy(update={"column": column})
    return contract.model_copy(update={"target": target})


def _outcome(table: Table, target: Target, given: Given) -> Labels | None:
    """Return labels; None where the table does not have the column and nobody asked for it."""
    if given.target is None and target.column not in table.columns:
        return None
    try:
        return labels_of(table, target)
    except DataError as error:
        raise RunError("SB-506", error.message) from None


def _one_outcome(found: Sequence[Labels | None]) -> Labels | None:
    old, new = found
    if (old is None) != (new is None):
        raise RunError(
            "SB-506",
            "The models' outcomes stand in different columns, and the table has one of them",
            "Name the column with --target",
        )
    if old is not None and new is not None and not np.array_equal(old, new):
        raise RunError(
            "SB-506", "The two contracts read this outcome differently: no figure would be of both"
        )
    return old


def _bags(old: Version, new: Version, given: Given) -> ScoredPair:
    if given.data is None or given.target is not None:
        raise RunError("SB-506", "An index of bags names its outcome as the contract does")
    index, units = BagIndex(given.data, given.id_column), []
    for version in (old, new):
        try:
            units.append(version.model.task.read_units(index, version.model.document))
        except DataError as error:
            raise RunError("SB-506", f"{version.ref} cannot read it: {error.message}") from None
    ids = units[0].ids
    check_same_ids(ids, units[1].ids)
    scores = [_scores(version, unit) for version, unit in zip((old, new), units, strict=True)]
    labels = _one_outcome([np.asarray(unit.labels) for unit in units])
    return ScoredPair(ids, _numbered(ids), "patient", labels, scores[0], scores[1])


def _scores(version: Version, units: Units) -> Scores:
    try:
        return version.model.task.scores(version.model.net, units)
    except DataError as error:
        raise RunError("SB-506", error.message) from None


def check_same_ids(old: Sequence[str], new: Sequence[str]) -> None:
    """Refuse two readings of one input with different patients, or another order.

    Raises:
        RunError: SB-506.
    """
    if tuple(old) != tuple(new):
        raise RunError("SB-506", "The two contracts do not find the same patients in this input")


def _slides(old: Version, new: Version, given: Given) -> ScoredPair:
    from solblom_models.slides.prediction import predict_slides

    found = []
    for version in (old, new):
        encoder = _encoder(version, given.encoders)
        try:
            told = predict_slides(version.model, given.slides, encoder_file=encoder)
        except RunError as error:
            raise RunError(error.code, f"{version.ref}: {error.message}", error.hint) from None
        found.append(np.array([told.probability]))
    return ScoredPair(("patient",), np.zeros(1, np.int64), "patient", None, found[0], found[1])


def _encoder(version: Version, files: Sequence[Path]) -> Path | None:
    """Return the file that a contract pins; where none fits, the first, so that its own error is said."""
    contract = version.model.contract
    pinned = contract.encoder.sha256 if isinstance(contract, BagContract) else None
    for path in files:
        if path.is_file() and file_digest(path)[0] == pinned:
            return path
    return files[0] if files and pinned is not None else None


def _recalibrated(pair: ScoredPair, old: Version, new: Version, given: Given) -> ScoredPair:
    scores = []
    for version, values, path in (
        (old, pair.old, given.old_recalibration),
        (new, pair.new, given.new_recalibration),
    ):
        if not bool(np.isfinite(values).all()):
            raise RunError("SB-506", f"{version.ref} gives a score that is not a number")
        if path is None:
            scores.append(values)
        else:
            own = read_recalibration(path, model=version.artefact)
            scores.append(own.recalibration.apply(values))
    return ScoredPair(pair.ids, pair.clusters, pair.unit, pair.labels, scores[0], scores[1])


def _numbered(groups: Sequence[str]) -> NDArray[np.int64]:
    return np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)[1].astype(
        np.int64
    )
