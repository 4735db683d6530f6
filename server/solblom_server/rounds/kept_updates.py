"""What a run keeps for replay: each update on disk before its reply counts as taken, each sum before its round closes.

A file is written beside its place, synced and renamed, so a crash leaves none or the whole one. A round that is
resumed asks again and writes again: hospitals answer with the same bytes, and what is left of one that does not
answer any more goes when the round closes.
"""

import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from solblom_models.artefact import RoundRecord
from solblom_models.replay_files import (
    GRADE_A,
    INITIAL,
    UPDATES,
    KeptFile,
    ReplayFiles,
    sum_name,
    update_name,
    why_not_kept,
)
from solblom_protocol.durable_file import PUBLIC, write_whole
from solblom_protocol.errors import RunError
from solblom_protocol.studies.study import StudyDocument
from solblom_protocol.sums.run_sums import place_of, tolerates_dropouts
from solblom_server.database import Database
from solblom_verify.canonical import file_digest

KEPT = "training"  # in the run's folder; the first part of every name in the artefact


@dataclass(frozen=True)
class KeptUpdates:
    """The files of one run, in its folder; keeps nothing where `keeps` is false (privacy.md rule 10)."""

    folder: Path
    keeps: bool

    def keep_initial(self, model: bytes) -> None:
        """Keep the weights before round 1.

        Raises:
            RunError: SB-440, the disk does not take it.
        """
        self._write(INITIAL, model)

    def keep_update(self, number: int, site: str, update: bytes | memoryview) -> None:
        """Keep a hospital's update as it arrived; returns when it is on disk.

        Raises:
            RunError: SB-440.
        """
        self._write(update_name(number, site), update)

    def keep_sum(self, number: int, opened: NDArray[np.int64]) -> None:
        """Keep the opened sum of a masked round.

        Raises:
            RunError: SB-440.
        """
        self._write(sum_name(number), opened.astype("<i8").tobytes())

    def close(self, number: int, sites: Collection[str]) -> None:
        """Remove what is left of hospitals whose update is not in the round."""
        names = {Path(update_name(number, site)).name for site in sites}
        for path in (self.folder / UPDATES).glob(f"{number:03d}-*.bin"):
            if path.name not in names:
                path.unlink()

    def _write(self, name: str, data: bytes | memoryview) -> None:
        if not self.keeps:
            return
        try:
            write_whole(self.folder / name, data, mode=PUBLIC)
        except OSError as error:
            raise RunError("SB-440", f"{name} could not be kept: {error.strerror}") from None


def remove_kept(folder: Path) -> None:
    """Remove a run's own copies; call when its model is registered and the run completed, which nothing undoes."""
    shutil.rmtree(folder / KEPT, ignore_errors=True)


def files_of_run(
    folder: Path,
    document: StudyDocument,
    database: Database,
    run: str,
    rounds: Sequence[RoundRecord],
) -> ReplayFiles:
    """Return what a finished run kept, each file compared with the receipt that names it.

    A file that is gone or was changed on this disk does not stop the release: the model then says what is missing,
    and keeps none.
    """
    reason = why_not_kept(document)
    if reason is not None:
        return ReplayFiles(reason)
    names = {INITIAL: rounds[0].base}
    for record in rounds:
        if document.secure_sum is None:
            for site, (_, receipt) in record.receipts.items():
                names[update_name(record.round, site)] = receipt.update
            continue
        names[sum_name(record.round)] = (
            ""  # no receipt names a sum: the replay compares what it leads to
        )
        if _summed(document, database, run, record) != set(record.receipts):
            return ReplayFiles(f"not kept: round {record.round} lacks a receipt of its sum")
    files = {}
    for name, expected in sorted(names.items()):
        try:
            found, size = file_digest(folder / name)
        except OSError:
            return ReplayFiles(f"not kept: {name} is missing in the run's folder")
        if expected not in ("", found):
            return ReplayFiles(f"not kept: {name} is not the one that was received")
        files[name] = KeptFile(folder / name, found, size)
    return ReplayFiles(GRADE_A, files)


def _summed(document: StudyDocument, database: Database, run: str, record: RoundRecord) -> set[str]:
    """Return whose vectors are in a round's sum: all of the roster, or the survivors."""
    if document.secure_sum is None or not tolerates_dropouts(document):
        return set(
            record.receipts if document.secure_sum is None else document.secure_sum.roster.keys
        )
    return set(database.survivors(run, place_of(document, "train", record.round)) or ())
