"""Bags: a patient's slides are one bag, a file from outside is not trusted, and nothing is dropped silently."""

import tracemalloc
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from bag_lab import DIM, contract, write_bag, write_index, write_patients
from solblom_models.slide_mil import bags
from solblom_models.slide_mil.bag_file import (
    BagFileError,
    read_bag,
    read_facts,
    read_labels,
    tile_count,
)
from solblom_models.slide_mil.bags import BagIndex, BagUnits, read_bags, standardised
from solblom_protocol.errors import ConfigurationError, DataError


def features(tiles: int, *, seed: int = 0, dim: int = DIM) -> Any:
    return np.random.default_rng(seed).normal(size=(tiles, dim)).astype(np.float32)


def read(index: Path, **changes: Any) -> BagUnits:
    return read_bags(BagIndex(index), contract(**changes))


def refusal(index: Path, **changes: Any) -> DataError:
    with pytest.raises(DataError) as caught:
        read(index, **changes)
    return caught.value


def test_all_slides_of_a_patient_are_one_bag(tmp_path: Path) -> None:
    first, second = features(3, seed=1), features(5, seed=2)
    write_bag(tmp_path / "a.h5", first, coords=np.zeros((3, 2), dtype=np.int64))
    write_bag(tmp_path / "b.h5", second)
    write_bag(tmp_path / "c.h5", features(1))
    rows = [("x", "a.h5", "1"), ("y", "c.h5", "0"), ("x", "b.h5", "1")]
    units = read(write_index(tmp_path, rows))
    assert units.ids == ("x", "y")
    assert units.labels.tolist() == [1, 0]
    assert np.array_equal(units.bag(0), np.concatenate([first, second]))
    assert np.allclose(units.features[0], units.bag(0).mean(axis=0), atol=1e-6)
    assert units.notes == {"patients": 2, "slides": 3, "tiles": 9}


@pytest.mark.parametrize("kind", ["float16", "float64", "leading one", "gzip", "lzf"])
def test_the_layouts_of_clam_and_trident_are_read(tmp_path: Path, kind: str) -> None:
    values = features(4)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        if kind in ("gzip", "lzf"):
            file.create_dataset("features", data=values, compression=kind, shuffle=True)
        else:
            file["features"] = (
                values[None]
                if kind == "leading one"
                else values.astype(kind if "float" in kind else "f4")
            )
        file["coords"] = np.arange(8).reshape(4, 2)
    found = read_bag(tmp_path / "a.h5", dim=DIM)
    assert found.features.dtype == np.float32
    assert np.allclose(found.features, values, atol=2e-3)
    assert found.coords is not None
    assert found.coords.tolist()[3] == [6, 7]
    assert tile_count(tmp_path / "a.h5") == 4


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda f: f.create_dataset("other", data=features(2)), "no features"),
        (lambda f: f.create_group("features"), "no table"),
        (lambda f: f.create_dataset("features", data=features(2, dim=DIM + 1)), "not of shape"),
        (
            lambda f: f.create_dataset("features", data=np.ones((2, DIM), dtype="i4")),
            "floating-point",
        ),
        (lambda f: f.create_dataset("features", data=np.full((2, DIM), np.nan)), "not a finite"),
        (lambda f: f.create_dataset("features", data=np.full((2, DIM), np.inf)), "not a finite"),
        (lambda f: f.create_dataset("features", data=np.ones(DIM)), "not of shape"),
    ],
)
def test_a_file_that_is_no_bag_is_refused(tmp_path: Path, make: Any, why: str) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        make(file)
    with pytest.raises(BagFileError, match=why):
        read_bag(tmp_path / "a.h5", dim=DIM)


def claimed(file: Any, shape: tuple[int, ...], name: str = "features", **more: Any) -> None:
    file.create_dataset(name, shape=shape, dtype="f4", **more)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda f: claimed(f, (10**12, DIM), chunks=(1000, DIM)), "claims"),
        (lambda f: claimed(f, (2**63 - 1, DIM), chunks=(1000, DIM)), "claims"),
        (lambda f: claimed(f, (5 * 10**8, DIM), chunks=(1000, DIM), compression="gzip"), "claims"),
        (lambda f: claimed(f, (5 * 10**8, DIM)), "claims"),
        (lambda f: f.create_dataset("features", data=h5py.Empty("f4")), "no numbers"),
        (lambda f: f.create_dataset("features", data=[["a"] * DIM]), "floating-point"),
        (lambda f: f.create_dataset("features", data=np.ones((2, 4, DIM))), "not of shape"),
        (lambda f: f.create_dataset("features", data=np.full((2, DIM), 1e300)), "not a finite"),
    ],
)
def test_what_a_file_claims_is_looked_at_before_it_is_read(
    tmp_path: Path, make: Any, why: str
) -> None:
    """A few hundred bytes may claim terabytes: HDF5 gives zeros for what was never written."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        make(file)
    tracemalloc.start()
    with pytest.raises(BagFileError, match=why):
        read_bag(tmp_path / "a.h5", dim=DIM)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2**22
    assert refusal(write_index(tmp_path, [("x", "a.h5", "1")])).code == "SB-307"


def test_many_equal_tiles_are_no_false_claim(tmp_path: Path) -> None:
    same = np.zeros((200_000, DIM), dtype=np.float32)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("features", data=same, compression="gzip", compression_opts=9)
    assert tile_count(tmp_path / "a.h5") == len(same)
    assert len(read_bag(tmp_path / "a.h5", dim=DIM).features) == len(same)


@pytest.mark.parametrize(
    "coords",
    [
        np.full((4, 2), 2**63 + 5, dtype=np.uint64),
        np.array([["a", "b"]] * 4, dtype=object),
        np.full((4, 2), 0.5),
    ],
)
def test_coordinates_that_are_no_places_are_refused(tmp_path: Path, coords: Any) -> None:
    write_bag(tmp_path / "a.h5", features(4), coords=coords)
    with pytest.raises(BagFileError, match="coords"):
        read_bag(tmp_path / "a.h5", dim=DIM)


def test_labels_that_all_name_one_long_text_do_not_fill_the_memory(tmp_path: Path) -> None:
    """Texts are references: 2,000 of them to one of 8 MB would be 16 GB."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        kind = h5py.string_dtype()
        labels = file.create_dataset("label", (2_000,), dtype=kind)
        labels[0] = "x" * 2**23
    data, one = path.read_bytes(), None
    with h5py.File(path) as file:
        offset = file["label"].id.get_offset()
        one = data[offset : offset + 16]
    path.write_bytes(data[:offset] + one * 2_000 + data[offset + 16 * 2_000 :])
    tracemalloc.start()
    with pytest.raises(BagFileError, match="labels"):
        read_labels(path, "label", tiles=2_000)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2**30 + 2**25


@pytest.mark.parametrize("facts", ["[" * 100_000, "[1]", "null", "{", "7"])
def test_facts_that_are_none_are_one_error(tmp_path: Path, facts: str) -> None:
    with h5py.File(tmp_path / "a.h5", "w", libver="latest") as file:
        file.attrs["solblom_facts"] = facts
    with pytest.raises(BagFileError, match="says nothing"):
        read_facts(tmp_path / "a.h5")


def test_coordinates_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    write_bag(tmp_path / "a.h5", features(4), coords=np.zeros((3, 2), dtype=np.int64))
    with pytest.raises(BagFileError, match="coords"):
        read_bag(tmp_path / "a.h5", dim=DIM)


@pytest.mark.parametrize("kind", ["external link", "soft link", "external storage", "virtual"])
def test_a_file_cannot_show_another_files_numbers(tmp_path: Path, kind: str) -> None:
    write_bag(tmp_path / "secret.h5", features(4))
    np.ones((4, DIM), dtype="<f4").tofile(tmp_path / "secret.bin")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        if kind == "external link":
            file["features"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "/features")
        elif kind == "soft link":
            file["own"] = features(4)
            file["features"] = h5py.SoftLink("/own")
        elif kind == "external storage":
            stored = [(str(tmp_path / "secret.bin"), 0, h5py.h5f.UNLIMITED)]
            file.create_dataset("features", (4, DIM), "<f4", external=stored)
        else:
            layout = h5py.VirtualLayout((4, DIM), "<f4")
            layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "features", (4, DIM))
            file.create_virtual_dataset("features", layout)
    with pytest.raises(BagFileError, match=r"link|another file"):
        read_bag(tmp_path / "a.h5", dim=DIM)


def test_a_filter_that_hdf5_would_load_as_a_plugin_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("features", data=features(4), scaleoffset=3)  # another filter, built in
    with pytest.raises(BagFileError, match="filter"):
        read_bag(tmp_path / "a.h5", dim=DIM)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 not a bag", b"\x89HDF\r\n\x1a\n cut"])
def test_a_truncated_or_foreign_file_is_counted_and_not_named(tmp_path: Path, data: bytes) -> None:
    write_bag(tmp_path / "good.h5", features(2))
    (tmp_path / "anna-olsen.h5").write_bytes(data)
    index = write_index(tmp_path, [("x", "good.h5", "1"), ("y", "anna-olsen.h5", "0")])
    error = refusal(index)
    assert error.code == "SB-307"
    assert "1 of 2 slides" in error.message
    assert "line 3" in error.message
    assert "anna" not in error.message


def test_bytes_that_are_damaged_are_refused_and_nothing_else_is_raised(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "a.h5", features(40), coords=np.zeros((40, 2), dtype=np.int64))
    whole, rng, refused = path.read_bytes(), np.random.default_rng(1), 0
    for _ in range(400):
        damaged = bytearray(whole)
        for place in rng.integers(0, 2_000, size=4):  # where HDF5 keeps its tables
            damaged[place] = int(rng.integers(0, 256))
        path.write_bytes(bytes(damaged))
        try:
            read_bag(path, dim=DIM)
        except BagFileError:
            refused += 1
    assert refused > 20


def test_half_a_file_is_refused(tmp_path: Path) -> None:
    whole = write_bag(tmp_path / "a.h5", features(500)).read_bytes()
    (tmp_path / "a.h5").write_bytes(whole[: len(whole) // 2])
    assert refusal(write_index(tmp_path, [("x", "a.h5", "1")])).code == "SB-307"


@pytest.mark.parametrize(
    "name", ["../outside.h5", "/etc/hostname", "link.h5", "", "nowhere.h5", "."]
)
def test_a_file_outside_the_folder_of_the_index_is_refused(tmp_path: Path, name: str) -> None:
    write_bag(tmp_path / "outside.h5", features(2))
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "link.h5").symlink_to(tmp_path / "outside.h5")
    error = refusal(write_index(folder, [("x", name, "1")]))
    assert error.code == "SB-307"
    assert "1 of 1 slides" in error.message


@pytest.mark.parametrize(
    ("rows", "code"),
    [
        ([("x", "a.h5", "1"), ("x", "b.h5", "0")], "SB-302"),  # slides disagree
        ([("x", "a.h5", "?")], "SB-302"),
        ([("", "a.h5", "1")], "SB-302"),
        ([("x", "a.h5", "1"), ("y", "./a.h5", "1")], "SB-302"),  # one slide, two patients
    ],
)
def test_an_index_that_contradicts_itself_is_refused(tmp_path: Path, rows: Any, code: str) -> None:
    write_bag(tmp_path / "a.h5", features(2))
    write_bag(tmp_path / "b.h5", features(2))
    assert refusal(write_index(tmp_path, rows)).code == code


def test_an_index_without_a_column_is_refused(tmp_path: Path) -> None:
    (tmp_path / "index.csv").write_text("patient_id,label\nx,1\n", encoding="utf-8")
    error = refusal(tmp_path / "index.csv")
    assert (error.code, "file" in error.message) == ("SB-301", True)


def test_a_patient_with_two_hundred_slides_is_thinned_evenly_and_counted(tmp_path: Path) -> None:
    rows = []
    for number in range(200):
        values = np.full((10, DIM), number, dtype=np.float32)
        write_bag(tmp_path / f"{number}.h5", values)
        rows.append(("x", f"{number}.h5", "1"))
    units = read(write_index(tmp_path, rows), bag={"max_tiles": 100}, encoder={"limit": 1000.0})
    assert units.notes["bag thinned to max_tiles"] == 1
    assert units.bag(0)[:, 0].tolist() == [float(n) for n in range(0, 200, 2)]  # every second slide
    assert np.allclose(units.features[0], units.bag(0).mean(axis=0))


def test_tiles_that_are_thinned_out_have_no_influence(tmp_path: Path) -> None:
    values = features(10)
    index = write_index(tmp_path, [("x", "a.h5", "1")])
    write_bag(tmp_path / "a.h5", values)
    before = read(index, bag={"max_tiles": 5})
    values[1::2] = 99.0
    write_bag(tmp_path / "a.h5", values)
    after = read(index, bag={"max_tiles": 5})
    assert before.row_bytes(0) == after.row_bytes(0)
    assert np.array_equal(before.bag(0), after.bag(0))


def test_a_patient_without_tiles_is_refused_by_number(tmp_path: Path) -> None:
    write_bag(tmp_path / "a.h5", features(0))
    error = refusal(write_index(tmp_path, [("x", "a.h5", "1")]))
    assert "1 patient has fewer than 1 tile" in error.message


def test_features_are_standardised_by_public_constants_and_limited(tmp_path: Path) -> None:
    write_bag(tmp_path / "a.h5", np.array([[0, 1, 2, 3, 4, 1e30]], dtype=np.float32))
    index = write_index(tmp_path, [("x", "a.h5", "1")])
    found = read(index, encoder={"center": 1.0, "scale": 2.0, "limit": 1.0}).bag(0)
    assert found.tolist() == [[-0.5, 0.0, 0.5, 1.0, 1.0, 1.0]]


def test_a_tile_more_or_another_number_changes_the_patients_digest(tmp_path: Path) -> None:
    index, values = write_index(tmp_path, [("x", "a.h5", "1")]), features(3)
    seen = set()
    for changed in (values, values[:2], values * 2, values[::-1]):
        write_bag(tmp_path / "a.h5", changed)
        seen.add(read(index).row_bytes(0))
    assert len(seen) == 4


@pytest.fixture(params=["kept in memory", "read again"])
def memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "read again":
        monkeypatch.setattr(bags, "KEPT_BYTES", 0)
    return str(request.param)


@pytest.mark.parametrize("changed", [features(2), features(5) + 1, features(9, seed=3)])
def test_what_was_not_looked_at_is_never_trained_on(
    tmp_path: Path, memory: str, changed: Any
) -> None:
    write_bag(tmp_path / "a.h5", features(5))
    units = read(write_index(tmp_path, [("x", "a.h5", "1")]))
    write_bag(tmp_path / "a.h5", changed)
    if memory == "kept in memory":
        assert np.array_equal(units.bag(0), standardised(features(5), contract().encoder))
        return
    with pytest.raises(DataError) as caught:
        units.bag(0)
    assert caught.value.code == "SB-307"


def test_bags_are_the_same_inmemory_and_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = write_patients(tmp_path, 6)
    kept = read(index)
    monkeypatch.setattr(bags, "KEPT_BYTES", 0)
    again = read(index)
    assert (kept.kept is None, again.kept is None) == (False, True)
    assert kept.digests == again.digests
    assert np.array_equal(kept.features, again.features)
    assert all(np.array_equal(kept.bag(i), again.bag(i)) for i in range(6))


def test_a_choice_of_patients_keeps_what_is_theirs(tmp_path: Path) -> None:
    units = read(write_patients(tmp_path, 8))
    chosen = units.select([5, 2])
    assert chosen.ids == (units.ids[5], units.ids[2])
    assert np.array_equal(chosen.bag(0), units.bag(5))
    assert chosen.row_bytes(1) == units.row_bytes(2)


def test_without_h5py_the_missing_part_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ConfigurationError, match="h5py") as caught:
        read_bag(tmp_path / "a.h5", dim=DIM)
    assert caught.value.code == "SB-118"
