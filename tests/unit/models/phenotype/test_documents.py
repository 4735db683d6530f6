"""Hostile input is named, and costs neither memory nor a crash."""

import gzip
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phenotype_lab import packet
from solblom_models.phenotype.documents import PatientRegister, json_object, raw_documents
from solblom_models.phenotype.reading import Reading, Reason
from solblom_protocol.errors import DataError


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", Reason.TRUNCATED),
        (b'{"id": "a"', Reason.TRUNCATED),
        (b'{"id": "a', Reason.TRUNCATED),
        (b'{"id": tru', Reason.TRUNCATED),
        (b"hello", Reason.NOT_JSON),
        (b"{'id': 1}", Reason.NOT_JSON),
        (b'{"id": 1}{"id": 2}', Reason.NOT_JSON),
        (b'{"id": ' + b"9" * 5_000 + b"}", Reason.NOT_JSON),
        (b'{"id": "\xff"}', Reason.NOT_UTF8),
        ('{"id": "å"}'.encode("utf-16"), Reason.NOT_UTF8),
        (b'{"id": 1, "id": 2}', Reason.DUPLICATE_KEY),
        (b'{"a": {"id": 1, "id": 1}}', Reason.DUPLICATE_KEY),
        (b'{"id": NaN}', Reason.NOT_FINITE),
        (b'{"id": -Infinity}', Reason.NOT_FINITE),
        (b"[" * 200_000, Reason.TOO_DEEP),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, Reason.TOO_DEEP),
        (b"[]", Reason.NOT_PHENOPACKET),
        (b"null", Reason.NOT_PHENOPACKET),
        (b'"text"', Reason.NOT_PHENOPACKET),
    ],
)
def test_what_is_no_json_object_is_named(data: bytes, reason: Reason) -> None:
    assert json_object(data) is reason


@pytest.mark.parametrize("escaped", [True, False])
def test_every_beginning_of_a_document_is_truncated(escaped: bool) -> None:
    whole = json.dumps(packet(note='a \\ \u00e5 " b', yes=True, no=[False, None, -1.5e-3])).encode()
    assert json_object(whole) == json.loads(whole)
    assert {json_object(whole[:n]) for n in range(len(whole))} == {Reason.TRUNCATED}


def test_a_byte_order_mark_is_no_harm() -> None:
    assert json_object(b'\xef\xbb\xbf{"id": "a"}') == {"id": "a"}


@given(st.binary(max_size=200))
def test_no_bytes_make_the_reader_fail(data: bytes) -> None:
    assert isinstance(json_object(data), Reason | dict)


def documents(
    path: Path, *, max_bytes: int = 100
) -> tuple[list[tuple[int, bytes | Reason]], Reading]:
    reading = Reading()
    return list(raw_documents(path, reading, max_bytes=max_bytes)), reading


@pytest.mark.parametrize("name", ["c.jsonl", "c.ndjson", "c.JSONL.GZ"])
def test_lines_are_documents_and_blank_ones_are_nothing(tmp_path: Path, name: str) -> None:
    data = b'{"a":1}\n\n{"b":2}'
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if name.endswith("GZ") else data)
    assert documents(path)[0] == [(1, b'{"a":1}\n'), (3, b'{"b":2}')]


@pytest.mark.parametrize("name", ["c.json", "c.json.gz"])
def test_a_file_is_one_document(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(b"{\n}") if name.endswith("gz") else b"{\n}")
    assert documents(path)[0] == [(1, b"{\n}")]


def test_a_line_over_the_limit_is_skipped_and_the_next_one_read(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes(b"x" * 3_000_000 + b"\n{}\n" + b"y" * 101)
    assert documents(path)[0] == [(1, Reason.TOO_LARGE), (2, b"{}\n"), (3, Reason.TOO_LARGE)]


def test_a_line_of_exactly_the_limit_is_read(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes(b"x" * 99 + b"\n{}\n")
    assert [place for place, _ in documents(path)[0]] == [1, 2]
    assert Reason.TOO_LARGE not in [data for _, data in documents(path)[0]]


def test_a_small_file_that_unpacks_to_much_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "c.json.gz"
    path.write_bytes(gzip.compress(b" " * 50_000_000, compresslevel=1))
    assert documents(path)[0] == [(1, Reason.TOO_LARGE)]


def test_a_folder_is_read_in_one_order_and_other_files_are_counted(tmp_path: Path) -> None:
    for name in ("b.json", "a.json", "deep/c.JSON", "deep/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f'"{name}"')
    found, reading = documents(tmp_path)
    assert found == [(1, b'"a.json"'), (2, b'"b.json"'), (3, b'"deep/c.JSON"')]
    assert reading.counts == {Reason.OTHER_FILE: 1}


def test_a_pipe_or_a_broken_archive_in_a_folder_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.json")
    (tmp_path / "b.json.gz").write_bytes(gzip.compress(b"{}" * 40)[:-9])
    (tmp_path / "c.json").symlink_to(tmp_path / "nothing")
    unreadable = Reason.UNREADABLE_FILE
    assert documents(tmp_path)[0] == [(1, unreadable), (2, unreadable), (3, unreadable)]


@pytest.mark.parametrize("name", ["none.jsonl", "none.json", "cases.csv", "cases"])
def test_what_cannot_be_read_at_all_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError) as caught:
        documents(tmp_path / name)
    assert caught.value.code == "SB-307"
    assert "none" not in caught.value.message


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_damaged_archive_is_refused_with_the_line(tmp_path: Path, damage: str) -> None:
    data = bytearray(gzip.compress(b"".join(b'{"n":%d}\n' % n for n in range(50_000))))
    if damage == "cut":
        del data[len(data) // 2 :]
    else:
        data[len(data) // 2] ^= 0xFF
    path = tmp_path / "c.jsonl.gz"
    path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        documents(path)
    assert caught.value.code == "SB-307"
    assert "line" in caught.value.message


@given(st.lists(st.text(max_size=4), max_size=40))
def test_the_register_knows_who_came_by(patients: list[str]) -> None:
    with PatientRegister() as register:
        new = [register.is_new(patient) for patient in patients]
    assert new == [patient not in patients[:i] for i, patient in enumerate(patients)]


def test_half_of_a_surrogate_pair_is_a_patient_like_any_other() -> None:
    with PatientRegister() as register:
        assert [register.is_new(p) for p in ("\ud800", "\ud801", "\ud800")] == [True, True, False]
