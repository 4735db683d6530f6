"""A steward's decisions on the page: released is said, withdrawn is red, and the record of both stays readable."""

import datetime as dt
import shutil
import sqlite3
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from integration.demo_run import Demo, Solblom
from solblom_protocol.keys.key_files import private_pem, public_pem, write_new
from solblom_server.coordinator import Coordinator
from solblom_server.registry.life_cycle import mark_affected
from solblom_server.steward.records import open_records
from steward.lab import MODEL, NAME, scene_of, serving
from steward.test_pages import Words


def test_a_decision_shows_at_once_and_a_withdrawn_model_keeps_its_record(
    demo: Demo, tmp_path: Path, solblom: Solblom
) -> None:
    home = shutil.copytree(demo.home, tmp_path / "home")
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    write_new(tmp_path / "steward.key", private_pem(key))
    write_new(tmp_path / "steward.pem", public_pem(key.public_key()).encode(), mode=0o644)

    def decide(*arguments: str) -> None:
        done = solblom(*arguments, "--home", str(home))
        assert done.exit_code == 0, done.stderr

    decide("coordinator", "trust", "add-key", str(tmp_path / "steward.pem"), "--name", "Kari")
    signed = ("--key", str(tmp_path / "steward.key"))
    with serving(scene_of(home)) as running:
        running.enter()
        assert "candidate" in Words(running.ask(MODEL).body).words

        decide(
            "model",
            "promote",
            NAME,
            "--to",
            "validated",
            "--reason",
            "two <b>hospitals</b>",
            *signed,
        )
        shown = running.ask(MODEL)
        assert "validated" in Words(shown.body).words
        assert "two &lt;b&gt;hospitals&lt;/b&gt;" in shown.body
        assert "Kari" in Words(running.ask(f"{MODEL}/signatures").body).words

        decide("model", "withdraw", f"{NAME}@v1", "--reason", "calibration drift", *signed)
        body = running.ask(f"{MODEL}/evaluation").body
        assert 'class="notice bad"' in body
        assert "Withdrawn. Do not use this model" in body
        assert "calibration drift" in body
        assert "<img" in body
        assert "withdrawn" in Words(running.ask("/").body).words
        assert "calibration drift" in Words(running.ask("/incidents").body).words


def test_that_a_withdrawn_consent_affects_a_model_is_read_from_the_coordinators_log(
    demo: Demo, tmp_path: Path
) -> None:
    home = shutil.copytree(demo.home, tmp_path / "home")
    with open_records(home) as records:
        run = records.runs(most=1)[0].id
    with serving(scene_of(home)) as running:
        running.enter()
        assert "Affected by a withdrawal" not in running.ask(MODEL).body
        assert mark_affected(Coordinator.open(home), {run}, now=dt.datetime.now(dt.UTC))
        assert "Affected by a withdrawal of consent" in running.ask(MODEL).body


def test_a_decision_that_no_trusted_key_signed_is_not_repeated(demo: Demo, tmp_path: Path) -> None:
    home = shutil.copytree(demo.home, tmp_path / "home")
    with open_records(home) as records:
        run = records.runs(most=1)[0].id
    mark_affected(Coordinator.open(home), {run}, now=dt.datetime.now(dt.UTC))
    with sqlite3.connect(home / "log/transparency.sqlite") as database:
        changed = database.execute(
            """UPDATE entries SET entry = replace(entry, '"sig":"', '"sig":"AA') WHERE entry LIKE '%"status"%'"""
        )
        assert changed.rowcount >= 1
    database.close()
    with serving(scene_of(home)) as running:
        running.enter()
        assert "Affected by a withdrawal" not in running.ask(MODEL).body
        assert "The log does not hold" in running.ask("/log").body
