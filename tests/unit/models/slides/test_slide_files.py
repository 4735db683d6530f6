"""A slide's digest is of its own files: all of them, and none of another slide's."""

import struct
from pathlib import Path

import pytest

from solblom_models.slides.dicom_series import HEAD, series_of
from solblom_models.slides.slide_files import slide_digests, slide_files

EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
BIG_ENDIAN, DEFLATED = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
ONE, TWO = "1.2.826.0.1.3680043.1", "1.2.826.0.1.3680043.2"
OPEN = 0xFFFFFFFF  # a length that an end mark tells


def element(
    tag: int, kind: str, value: bytes, syntax: str = EXPLICIT, length: int | None = None
) -> bytes:
    """Return one data element; `length` other than the value's is for sequences."""
    value += b"\0" * (len(value) % 2)
    size = len(value) if length is None else length
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    if syntax == IMPLICIT:
        return head + struct.pack("<I", size) + value
    if kind in ("SQ", "OB", "UN"):
        return head + kind.encode() + struct.pack("<HI", 0, size) + value
    return head + kind.encode() + struct.pack("<H", size) + value


def item(value: bytes, *, closed: bool) -> bytes:
    end = b"" if closed else struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(value) if closed else OPEN) + value + end


def referenced(series: str, syntax: str, *, closed: bool) -> bytes:
    """Return (0008,1115), which stands before a file's own series and names another."""
    uid = element(0x0020_000E, "UI", series.encode(), syntax)
    inner = item(element(0x0008_1199, "SQ", item(uid, closed=True), syntax) + uid, closed=closed)
    if closed:
        return element(0x0008_1115, "SQ", inner, syntax)
    end = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    return element(0x0008_1115, "SQ", inner + end, syntax, OPEN)


def dicom(
    series: str | None, syntax: str = EXPLICIT, before: bytes = b"", rest: bytes = b""
) -> bytes:
    own = b"" if series is None else element(0x0020_000E, "UI", series.encode(), syntax)
    return (
        bytes(128)
        + b"DICM"
        + element(0x0002_0001, "OB", b"\0\1")
        + element(0x0002_0010, "UI", syntax.encode())
        + element(0x0008_0060, "CS", b"SM", syntax)
        + before
        + own
        + element(0x0020_0011, "IS", b"1", syntax)
        + rest
    )


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
@pytest.mark.parametrize("closed", [True, False])
def test_the_series_is_the_files_own_and_not_one_that_it_refers_to(
    tmp_path: Path, syntax: str, closed: bool
) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(dicom(ONE, syntax, referenced(TWO, syntax, closed=closed)))
    assert series_of(path) == ONE


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"A" * 300,
        bytes(128) + b"DICM",
        bytes(128) + b"DICM" + b"\xff" * 400,
        dicom(None),
        dicom("not a number"),
        dicom(ONE, BIG_ENDIAN),
        dicom(ONE, DEFLATED),
        dicom(ONE, before=element(0x0009_0010, "OB", bytes(HEAD))),
        dicom(None, before=referenced(TWO, EXPLICIT, closed=False)),
        dicom(ONE)[:190],
    ],
)
def test_a_head_that_does_not_tell_gives_no_series(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(data)
    assert series_of(path) is None


def test_two_dicom_slides_in_one_folder_have_their_own_files_and_digests(tmp_path: Path) -> None:
    files = {"a.dcm": ONE, "b.dcm": ONE, "c.DCM": ONE, "d": ONE, "x.dcm": TWO, "y.dcm": TWO}
    for number, (name, series) in enumerate(files.items()):
        syntax = IMPLICIT if number % 2 else EXPLICIT
        (tmp_path / name).write_bytes(dicom(series, syntax, rest=bytes([number])))
    (tmp_path / "slides.csv").write_text("patient_id,file\n", encoding="utf-8")
    (tmp_path / "junk.dcm").write_bytes(b"no DICOM")
    found = {name: [p.name for p in slide_files(tmp_path / name)] for name in ("b.dcm", "x.dcm")}
    assert found == {"b.dcm": ["b.dcm", "a.dcm", "c.DCM", "d"], "x.dcm": ["x.dcm", "y.dcm"]}
    one, two = (slide_digests(tmp_path / name) for name in found)
    assert one != two
    (tmp_path / "y.dcm").write_bytes(dicom(TWO, rest=b"other"))
    assert slide_digests(tmp_path / "b.dcm") == one
    assert slide_digests(tmp_path / "x.dcm") != two


def test_files_without_a_series_are_told_apart_by_which_was_named(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.dcm").write_bytes(name.encode() * 10)
    (tmp_path / "slides.csv").write_text("patient_id,file\n", encoding="utf-8")
    assert [p.name for p in slide_files(tmp_path / "b.dcm")] == ["b.dcm", "a.dcm", "c.dcm"]
    assert len({slide_digests(tmp_path / f"{name}.dcm") for name in "abc"}) == 3


def test_mirax_has_its_folder_and_others_have_one_file(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in ("a.mrxs", "b.mrxs", "a/Slidedat.ini", "a/Data.dat", "c.svs"):
        (tmp_path / name).write_bytes(name.encode())
    assert [p.name for p in slide_files(tmp_path / "a.mrxs")] == [
        "a.mrxs",
        "Data.dat",
        "Slidedat.ini",
    ]
    assert slide_files(tmp_path / "c.svs") == [tmp_path / "c.svs"]
