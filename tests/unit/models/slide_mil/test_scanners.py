"""The optional column `scanner`: one code a patient, for a simulation's report, seen by no model."""

import csv
from pathlib import Path

import numpy as np
import pytest

from bag_lab import DIM, contract, write_bag, write_index
from solblom_models.slide_mil.bags import BagIndex, BagUnits, read_bags
from solblom_models.tile_classification.tiles import TileUnits, read_tiles
from solblom_protocol.errors import DataError

PATIENTS = ("x", "x", "y", "z", "z")  # of each slide
ONE_EACH = ("P1000", "P1000", "AT2", "AT2", "P1000")


def written(folder: Path, scanners: tuple[str, ...] | None) -> BagIndex:
    folder.mkdir(exist_ok=True)
    rows = []
    for number, patient in enumerate(PATIENTS):
        values = np.random.default_rng(number).normal(size=(3, DIM)).astype(np.float32)
        write_bag(folder / f"{number}.h5", values, labels=np.array([0, 1, number % 2]))
        rows.append((patient, f"{number}.h5", str(int(patient == "y"))))
    path = write_index(folder, rows)
    if scanners is not None:
        lines = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(
                [*line, code] for line, code in zip(lines, ("scanner", *scanners), strict=True)
            )
    return BagIndex(path)


def bags(folder: Path, scanners: tuple[str, ...] | None) -> BagUnits:
    return read_bags(written(folder, scanners), contract())


def tiles(folder: Path, scanners: tuple[str, ...] | None) -> TileUnits:
    return read_tiles(written(folder, scanners), contract(target={"column": "labels"}))


def test_a_patient_has_one_scanner_or_several(tmp_path: Path) -> None:
    for units in (bags(tmp_path, ONE_EACH), tiles(tmp_path, ONE_EACH)):
        assert units.scanners == ("P1000", "AT2", "several")
        assert units.select([2, 0]).scanners == ("several", "P1000")
        assert units.select([]).scanners == ()


@pytest.mark.parametrize("scanners", [None, ("",) * 5])
def test_an_index_need_not_name_scanners(tmp_path: Path, scanners: tuple[str, ...] | None) -> None:
    for units in (bags(tmp_path, scanners), tiles(tmp_path, scanners)):
        assert units.scanners == ()
        assert units.select([1]).scanners == ()


@pytest.mark.parametrize("code", ["", "P1000/3", "Skanner å", "x" * 41, "a\tb"])
def test_a_code_that_is_none_is_refused_by_line_and_not_repeated(tmp_path: Path, code: str) -> None:
    for read in (bags, tiles):
        with pytest.raises(DataError, match="in 1 row, first in line 4") as caught:
            read(tmp_path, ("A", "A", code, "B", "B"))
        assert caught.value.code == "SB-302"
        assert not code or code not in caught.value.message


def test_a_scanner_changes_nothing_that_a_model_or_a_digest_sees(tmp_path: Path) -> None:
    named, silent = bags(tmp_path / "a", ONE_EACH), bags(tmp_path / "b", None)
    assert [named.row_bytes(i) for i in range(3)] == [silent.row_bytes(i) for i in range(3)]
    assert all(np.array_equal(named.bag(i), silent.bag(i)) for i in range(3))
    labelled, unnamed = tiles(tmp_path / "a", ONE_EACH), tiles(tmp_path / "b", None)
    for mine, theirs in zip(labelled.batch([0, 2]), unnamed.batch([0, 2]), strict=True):
        assert np.array_equal(mine.numpy(), theirs.numpy())
    assert labelled.row_bytes(1) == unnamed.row_bytes(1)
    assert labelled.notes == unnamed.notes
