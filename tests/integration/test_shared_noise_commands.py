"""What people type for shared noise: a roster, a study, its check."""

import json
from pathlib import Path

import pytest

from integration.demo_run import Solblom
from integration.shared_noise import SharedFederation


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return SharedFederation(tmp_path_factory.mktemp("typed") / "home", approving=[]).home


def test_a_roster_is_written_with_fingerprints_to_compare(
    home: Path, solblom: Solblom, tmp_path: Path
) -> None:
    path = tmp_path / "roster.json"
    done = solblom("coordinator", "roster", "--home", str(home), "--out", str(path), "--json")
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert [member["site"] for member in told["members"]] == ["cleveland", "hungarian", "va"]
    written = json.loads(path.read_text(encoding="utf-8"))
    assert written["schema"] == "solblom.roster/1"
    for member in told["members"]:
        assert member["fingerprint"] in done.stderr


@pytest.mark.parametrize(
    ("sites", "words"), [(["cleveland", "va"], "3 to 200"), (["oslo", "va"], "Not enrolled: oslo")]
)
def test_a_roster_of_too_few_or_unknown_hospitals_is_refused(
    home: Path, solblom: Solblom, tmp_path: Path, sites: list[str], words: str
) -> None:
    path = tmp_path / "roster.json"
    done = solblom("coordinator", "roster", *sites, "--home", str(home), "--out", str(path))
    assert done.exit_code == 3
    assert words in done.stderr
    assert not path.exists()


def test_a_new_study_with_shared_noise_says_what_it_assumes(
    home: Path, solblom: Solblom, tmp_path: Path
) -> None:
    done = solblom("study", "new", "mine", "--shared-by", "3", "--in", str(tmp_path))
    assert done.exit_code == 0, done.stderr
    assert "coordinator roster" in done.stderr
    study = tmp_path / "mine" / "study.toml"
    missing = solblom("study", "check", str(study))
    assert missing.exit_code == 3
    assert "roster.json" in missing.stderr
    solblom(
        "coordinator", "roster", "--home", str(home), "--out", str(study.parent / "roster.json")
    )
    checked = solblom("study", "check", str(study), "--json")
    assert checked.exit_code == 0, checked.stderr
    summary = json.loads(checked.stdout)["summary"]
    assert "all must answer" in summary["secure sum"]
    assert summary["orders carried"].startswith("11 a run")
    assert float(summary["epsilon alone"].split()[0]) > 3.0


def test_a_preset_with_many_local_steps_cannot_share_its_noise(
    solblom: Solblom, tmp_path: Path
) -> None:
    done = solblom(
        "study", "new", "mine", "--shared-by", "3", "--preset", "many-small-steps",
        "--in", str(tmp_path),
    )  # fmt: skip
    assert done.exit_code == 3
    assert "one step over all patients" in done.stderr
