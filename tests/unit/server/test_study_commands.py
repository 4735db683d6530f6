"""What a researcher is told by `solblom study check` before anybody signs."""

from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from solblom_server.commands.study import app


@pytest.fixture
def study(tmp_path: Path) -> Path:
    done = CliRunner().invoke(app, ["new", "mine", "--in", str(tmp_path)])
    assert done.exit_code == 0, done.output
    return tmp_path / "mine" / "study.toml"


def checked(study: Path, **replaced: str) -> Result:
    """Check a study in which whole lines, by their key, were written anew."""
    lines = study.read_text().splitlines()
    for key, value in replaced.items():
        (place,) = [n for n, line in enumerate(lines) if line.startswith(f"{key} = ")]
        lines[place] = f"{key} = {value}"
    study.write_text("\n".join(lines))
    return CliRunner().invoke(app, ["check", str(study)])


def test_a_study_that_has_ended_is_not_called_runnable(study: Path) -> None:
    done = checked(study, ends="2020-01-01")
    assert (done.exit_code, "SB-104" in done.stderr) == (3, True)
    assert "can be run" not in done.stderr


def test_words_of_the_template_that_hospitals_would_read_are_named(study: Path) -> None:
    assert "LOOK  title, purpose, legal_basis: still" in checked(study).stderr
    edited = checked(study, title='"Kidneys"', legal_basis='["REK 2026-442"]')
    assert edited.exit_code == 0, edited.output
    assert "LOOK  purpose: still" in edited.stderr


def test_a_number_in_quotation_marks_is_one_error_with_what_is_allowed(study: Path) -> None:
    done = checked(study, epsilon='"3"')
    assert done.exit_code == 3
    told = " ".join(done.stderr.split())
    assert "`privacy.epsilon`: input should be a valid number, or input should be 'off'" in told


def test_after_signing_a_study_of_slides_hospitals_are_told_to_make_features_first(
    tmp_path: Path,
) -> None:
    run = CliRunner().invoke
    assert run(app, ["keygen", str(tmp_path / "keys"), "--name", "ola"]).exit_code == 0
    assert run(app, ["new", "lab", "--task", "slide-mil", "--in", str(tmp_path)]).exit_code == 0
    key = str(tmp_path / "keys" / "researcher.key")
    done = run(app, ["sign", str(tmp_path / "lab" / "study.toml"), "--key", key])
    told = " ".join(done.stderr.split())
    assert 0 < told.index("solblom node features") < told.index("solblom node approve")


def test_a_robust_study_says_its_rule_what_it_needs_and_by_what_sums_are_divided(
    study: Path,
) -> None:
    robust = {"min_nodes": "5", "quorum": "5", "strategy": '"trimmed-mean"\ntolerated = 2'}
    done = checked(study, **robust)
    assert done.exit_code == 0, done.output
    told = " ".join(done.stdout.split())
    assert "rule coordinate-wise trimmed mean, 2 hospitals left out at each end; at least 5" in told
    assert "sums divided by 150 for all: fits hospitals of about one size" in told
    own = ", ".join(f"{site} = {100 + 10 * number}" for number, site in enumerate("abcde"))
    done = checked(study, expected_batch_size=f"{{ {own} }}")
    assert "sums divided by a 100, b 110, c 120, d 130, e 140" in " ".join(done.stdout.split())


def test_a_plain_mean_is_told_no_rule(study: Path) -> None:
    assert "sums divided by" not in checked(study).stdout


def test_a_rule_that_needs_more_hospitals_than_the_quorum_says_what_to_set(study: Path) -> None:
    done = checked(study, strategy='"krum"\ntolerated = 1')
    assert done.exit_code == 3
    told = " ".join(done.stderr.split())
    assert "krum with tolerated = 1 needs 5 updates in every round; cohort.quorum is 3" in told
    assert "Set quorum and min_nodes to 5 or more" in told
