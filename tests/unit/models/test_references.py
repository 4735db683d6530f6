"""From a model's name, version, digest or folder to its artefact."""

from pathlib import Path

import pytest

from solblom_models.references import find_artefact, registered
from solblom_protocol.errors import ConfigurationError, RunError
from solblom_verify.canonical import digest


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Solblom folder with asthma v1, v9 and v10, and heart-v2 v1."""
    folder = tmp_path / "home"
    for name in ("asthma-v1", "asthma-v9", "asthma-v10", "heart-v2-v1"):
        (folder / "models" / name).mkdir(parents=True)
        (folder / "models" / name / "manifest.json").write_text(name, encoding="utf-8")
    (folder / "models" / "asthma-v11").mkdir()  # no manifest: not an artefact
    (folder / "models" / ".partial-x").mkdir()
    (folder / "solblom.toml").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SOLBLOM_HOME", raising=False)
    return folder


@pytest.mark.parametrize(
    ("ref", "folder"),
    [
        ("asthma", "asthma-v10"),
        ("asthma@v9", "asthma-v9"),
        ("asthma@v1", "asthma-v1"),
        ("heart-v2", "heart-v2-v1"),
        (digest(b"asthma-v9"), "asthma-v9"),
    ],
)
def test_a_reference_leads_to_its_folder(home: Path, ref: str, folder: str) -> None:
    assert find_artefact(ref, home).name == folder


def test_a_folder_is_a_reference_without_any_home(home: Path) -> None:
    assert find_artefact("home/models/asthma-v1", None) == Path("home/models/asthma-v1")


@pytest.mark.parametrize("ref", ["heart", "asthma@v2", "asthma@9", digest(b"x"), "asthma-v9"])
def test_an_unknown_model_is_refused(home: Path, ref: str) -> None:
    with pytest.raises(RunError) as caught:
        find_artefact(ref, home)
    assert caught.value.code == "SB-503"


def test_a_name_needs_a_solblom_folder(home: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        find_artefact("asthma", None)
    assert caught.value.code == "SB-111"


def test_the_environment_may_name_the_solblom_folder(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOLBLOM_HOME", str(home))
    assert find_artefact("asthma", None).name == "asthma-v10"


def test_versions_are_listed_in_order_of_number(home: Path) -> None:
    found = [(name, version) for name, version, _ in registered(home / "models")]
    assert found == [("asthma", 1), ("asthma", 9), ("asthma", 10), ("heart-v2", 1)]


def test_an_empty_registry_is_no_error(tmp_path: Path) -> None:
    assert registered(tmp_path / "models") == []
