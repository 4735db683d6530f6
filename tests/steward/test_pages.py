"""What the page says: the truth of the records, the reason where there is none, and nothing that was tampered with."""

import datetime as dt
import itertools
import json
import os
import re
import shutil
import sqlite3
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from integration.demo_run import ROUNDS, Solblom
from solblom_protocol.messages.message import timestamp
from solblom_server.database import Database, ReplyRow
from solblom_server.steward import drawing
from solblom_server.steward.app import subject_of
from solblom_server.steward.artefact_files import ArtefactFiles
from solblom_server.steward.records import open_records
from solblom_server.steward.rendering import markdown
from solblom_server.steward.report import model_report
from solblom_server.steward.scene import Scene, Subject
from solblom_server.steward.verification import Verifier
from solblom_server.steward.views_evaluation import evaluation_page, evaluation_sections
from solblom_server.steward.views_materials import materials_sections
from steward.lab import MODEL, MODEL_VIEWS, NAME, Page, scene_of, serving, tamper

NOW = dt.datetime(2026, 11, 29, 12, tzinfo=dt.UTC)


class Words(HTMLParser):
    """The text of a page, and its tags in order."""

    def __init__(self, body: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(body)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] != "style":
            self.text.append(data)

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.text))


def run_and_study(home: Path) -> tuple[str, str]:
    with open_records(home) as records:
        row = records.runs(most=1)[0]
    return row.id, row.study.removeprefix("sha256:")


def every_path(home: Path) -> list[str]:
    run, study = run_and_study(home)
    return [
        "/", f"/studies/{study}", f"/studies/{study}/dpo", f"/runs/{run}",
        *(MODEL + view for view in MODEL_VIEWS), "/comparisons", "/incidents", "/log",
    ]  # fmt: skip


@pytest.fixture
def changed(own_home: Path) -> Iterator[Page]:
    """A page over a folder in which somebody changed the model's evaluation."""
    tamper(own_home)
    with serving(scene_of(own_home)) as running:
        running.enter()
        yield running


@pytest.mark.parametrize("language", ["en", "no"])
def test_every_view_is_shown_in_both_languages(page: Page, home: Path, language: str) -> None:
    for path in every_path(home):
        answer = page.ask(path, Accept_Language=language)
        assert answer.status == 200, path
        assert f'<html lang="{"nb" if language == "no" else "en"}">' in answer.body


def test_headings_are_in_order_and_tables_have_captions_and_scopes(page: Page, home: Path) -> None:
    for path in every_path(home):
        found = Words(page.ask(path).body)
        levels = [int(tag[1]) for tag, _ in found.tags if re.fullmatch(r"h[1-6]", tag)]
        assert levels[0] == 1
        assert all(after - before <= 1 for before, after in itertools.pairwise(levels)), path
        ours = [tag for tag, attributes in found.tags if tag == "table"]
        captions = [tag for tag, _ in found.tags if tag == "caption"]
        is_card = path.endswith("/card")  # its tables are the card's own, in Markdown
        assert is_card or len(ours) == len(captions)
        assert is_card or all("scope" in a for tag, a in found.tags if tag == "th")
        assert all(a.get("alt") for tag, a in found.tags if tag == "img")


def test_no_view_holds_a_script_or_names_another_host(page: Page, home: Path) -> None:
    for path in every_path(home):
        body = page.ask(path).body
        assert "<script" not in body
        assert not re.findall(r'(?:src|href|action)="(?:https?:)?//', body)
        assert " style=" not in body


def test_what_was_asked_for_with_a_word_stays(page: Page) -> None:
    given = page.ask("/?lang=no")
    cookie = given.headers["set-cookie"].partition(";")[0]
    again = page.ask("/log", cookie=f"{page.cookie}; {cookie}", Accept_Language="en")
    assert '<html lang="nb">' in again.body


def test_a_model_that_verifies_is_green_and_says_what_was_not_checked(page: Page) -> None:
    shown = Words(page.ask(f"{MODEL}/verify").body).words
    assert "Verified: every byte is the one that was signed" in shown
    assert "The patients: that their data were as described cannot be seen from here." in shown


def test_a_tampered_model_is_red_with_the_reason_on_its_page(changed: Page) -> None:
    for view in MODEL_VIEWS:
        answer = changed.ask(MODEL + view)
        shown = Words(answer.body).words
        assert "Does not verify. Do not use this model" in shown
        assert "files: changed file: evaluation/report.json" in shown
        assert 'class="notice bad"' in answer.body


def test_no_figure_of_a_tampered_model_is_shown(changed: Page, home: Path) -> None:
    with serving(scene_of(home)) as good:
        good.enter()
        honest = good.ask(f"{MODEL}/evaluation").body
    figures = set(re.findall(r"0\.\d{3} \[", honest))
    assert len(figures) > 10
    for view in MODEL_VIEWS:
        body = changed.ask(MODEL + view).body
        assert not any(figure in body for figure in figures)
        assert "<img" not in body
        assert "Show that hospitals can learn together" not in body


def test_a_tampered_model_is_red_with_the_reason_in_the_list_and_among_incidents(
    changed: Page,
) -> None:
    for path in ("/", "/incidents"):
        shown = Words(changed.ask(path).body).words
        assert "does not verify" in shown
        assert "changed file: evaluation/report.json" in shown


def test_the_curve_of_a_tampered_model_is_not_drawn_on_the_runs_page(
    changed: Page, own_home: Path
) -> None:
    run, _ = run_and_study(own_home)
    shown = Words(changed.ask(f"/runs/{run}").body).words
    assert "How far the mean update moved" not in shown
    assert "changed file: evaluation/report.json" in shown


def test_a_model_that_is_tampered_with_while_the_page_is_open_turns_red(own_home: Path) -> None:
    with serving(scene_of(own_home)) as running:
        running.enter()
        assert "Verified: every byte" in running.ask(MODEL).body
        tamper(own_home)
        assert "Does not verify" in running.ask(MODEL).body
        assert "does not verify" in running.ask("/").body


def test_a_change_of_the_same_size_and_time_turns_a_model_red(own_home: Path) -> None:
    """Whoever owns a file can set back when its content changed, but not when its inode did."""
    report = own_home / "models" / f"{NAME}-v1" / "evaluation/report.json"
    verifier = Verifier(own_home / "trust.json")
    assert verifier.judge(report.parents[1]).is_good
    before = report.stat()
    data = report.read_bytes()
    report.write_bytes(data.replace(b"0.8", b"0.9", 1))
    os.utime(report, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert report.stat().st_size == before.st_size
    assert not verifier.judge(report.parents[1]).is_good


def test_the_verify_button_reads_every_byte_again(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(scene_of(own_home)) as running:
        running.enter()
        running.ask(MODEL)
        tamper(own_home)
        # Even if the stamps of files lied, the button would find it.
        monkeypatch.setattr(Verifier, "known", lambda self, folder: None)
        assert "changed file" in running.ask(f"{MODEL}/verify?fresh=1").body


def test_without_a_trust_file_nothing_is_called_true(own_home: Path) -> None:
    (own_home / "trust.json").unlink()
    with serving(scene_of(own_home)) as running:
        running.enter()
        shown = Words(running.ask(MODEL).body).words
        assert "Cannot be judged" in shown
        assert not re.search(r"0\.\d{3}", shown)


def test_text_from_outside_is_shown_as_text(own_home: Path) -> None:
    """A study's title, a site's name, a reason: each may hold markup, and none becomes any."""
    attack = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'><b>"
    run, study = run_and_study(own_home)
    with sqlite3.connect(own_home / "coordinator.sqlite") as connection:
        connection.execute("UPDATE runs SET reason = ?, status = ?, transport = ?", (attack,) * 3)
        connection.execute("UPDATE runs SET roster = roster || ?", ("," + attack.replace(",", ""),))
        connection.execute(
            "INSERT INTO replies VALUES (?, 1, ?, '', 'invalid', ?, NULL, NULL, ?, 0.1, ?)",
            (run, attack, attack, attack, attack),
        )
        connection.execute(
            "INSERT INTO links VALUES (?, 'k', 'network', NULL, ?, ?, ?)", (attack,) * 4
        )
    connection.close()
    with serving(scene_of(own_home)) as running:
        running.enter()
        for path in (
            "/",
            f"/studies/{study}",
            f"/studies/{study}/dpo",
            f"/runs/{run}",
            "/incidents",
        ):
            answer = running.ask(path)
            assert answer.status == 200, path
            assert "<script" not in answer.body
            assert "onerror=alert" not in re.sub(
                r"&lt;img src=x onerror=alert\(2\)&gt;", "", answer.body
            )
            assert "<b>" not in answer.body
            assert "&lt;script&gt;" in answer.body


def test_a_model_card_shows_no_markup_link_or_picture_of_its_own() -> None:
    shown = markdown(
        "# A\n<script>x</script> [go](javascript:alert(1)) ![p](http://evil.example/p.png) <http://evil.example>\n"
    )
    assert "<script" not in shown
    assert "<a" not in shown
    assert "<img" not in shown


def test_only_a_code_tells_why_a_hospital_refused_and_the_page_says_what_it_means(
    own_home: Path,
) -> None:
    run, _ = run_and_study(own_home)
    database = Database(own_home / "coordinator.sqlite")
    for site, kind, code in (("va", "refusal", "SB-209"), ("cleveland", "late", None),
                             ("hungarian", "refusal", "SB-219")):  # fmt: skip
        database._connection.execute(
            "DELETE FROM replies WHERE run = ? AND site = ? AND round = 1", (run, site)
        )
        database.add_reply(run, ReplyRow(1, site, "", kind, code, None, None, timestamp(NOW), 0.1))
    database.close()
    with serving(scene_of(own_home)) as running:
        running.enter()
        shown = Words(running.ask(f"/runs/{run}").body).words
    assert "The hospital's data do not allow it" in shown
    assert "1 (SB-209)" in shown
    for state in ("refused", "late", "waiting"):
        assert state in shown


def test_a_model_without_onnx_has_its_page_of_signatures_and_says_why(own_home: Path) -> None:
    scene = scene_of(own_home)
    folder = own_home / "models" / f"{NAME}-v1"
    reason = "the package onnxruntime was not installed where the artefact was written"
    record = {"onnx": None, "reason": reason, "schema": "solblom.equivalence/1"}
    (folder / "model" / "equivalence.json").write_text(json.dumps(record))
    sections = materials_sections(scene, ArtefactFiles(folder))
    assert reason in repr(next(s for s in sections if s.name == "onnx"))


def test_outside_a_simulation_no_figure_of_a_hospital_is_shown(home: Path) -> None:
    """Rule 9: what is not a simulation has no figures by hospital, even if a report claimed some."""
    scene, folder = scene_of(home), home / "models" / f"{NAME}-v1"
    subject = Subject(NAME, 1, folder, scene.verifier.judge(folder))
    files = subject.files
    assert files is not None
    page = evaluation_page(scene, subject)
    assert any(section.name == "subgroups" for section in page.sections)
    report = {**files.evaluation, "simulation": False}
    files.__dict__["evaluation"] = report
    names = [section.name for section in evaluation_sections(scene, files)]
    assert names == ["sites", "released"]


def test_the_page_writes_nothing(page: Page, home: Path) -> None:
    def listing() -> dict[str, tuple[int, int]]:
        return {
            str(path): (path.stat().st_size, path.stat().st_mtime_ns)
            for path in home.rglob("*")
            if path.is_file() and path.suffix not in (".sqlite-shm", ".sqlite-wal")
            and not path.name.endswith(("-shm", "-wal"))
        }  # fmt: skip

    before = listing()
    for path in every_path(home):
        page.ask(path)
    assert listing() == before


def test_an_empty_folder_says_what_will_come(home: Path, tmp_path: Path) -> None:
    empty = tmp_path / "home"
    empty.mkdir()
    for name in ("solblom.toml", "trust.json", "coordinator.pub"):
        shutil.copyfile(home / name, empty / name)
    Database(empty / "coordinator.sqlite").close()
    with serving(scene_of(empty)) as running:
        running.enter()
        shown = Words(running.ask("/").body).words
        assert "No model is registered yet" in shown
        assert "There has been no run yet" in shown
        assert running.ask("/incidents").status == running.ask("/log").status == 200


def test_a_log_that_was_rewritten_is_said_not_to_hold(own_home: Path) -> None:
    with sqlite3.connect(own_home / "log/transparency.sqlite") as connection:
        connection.execute(
            "UPDATE entries SET entry = replace(entry, 'round', 'rounds') WHERE seq = 1"
        )
    connection.close()
    with serving(scene_of(own_home)) as running:
        running.enter()
        shown = Words(running.ask("/log").body).words
        assert "The log does not hold" in shown
        assert "the entries are not those that were signed" in shown


def test_a_report_is_one_file_that_needs_nothing_else(
    home: Path, tmp_path: Path, solblom: Solblom
) -> None:
    file = tmp_path / "report.html"
    done = solblom("steward", "report", NAME, "--html", str(file), "--home", str(home), "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["schema"] == "solblom.steward.report/1"
    body = file.read_text()
    assert not re.findall(r'(?:src|href)="(?!data:|#)', body)
    assert f"{ROUNDS} of {ROUNDS} closed" in Words(body).words


def test_a_report_of_a_tampered_model_is_red_and_exits_with_5(
    own_home: Path, tmp_path: Path, solblom: Solblom
) -> None:
    tamper(own_home)
    file = tmp_path / "report.html"
    done = solblom("steward", "report", NAME, "--html", str(file), "--home", str(own_home))
    assert done.exit_code == 5
    shown = Words(file.read_text()).words
    assert "changed file: evaluation/report.json" in shown
    assert not re.search(r"0\.\d{3}", shown)


def test_a_report_of_a_folder_elsewhere_is_refused(
    home: Path, tmp_path: Path, solblom: Solblom
) -> None:
    copied = shutil.copytree(home / "models" / f"{NAME}-v1", tmp_path / f"{NAME}-v1")
    done = solblom(
        "steward", "report", str(copied), "--html", str(tmp_path / "r.html"), "--home", str(home)
    )
    assert done.exit_code == 3
    assert "SB-463" in done.stderr


@pytest.mark.parametrize(("language", "word"), [("en", "cannot know"), ("no", "ikke kan vite")])
def test_the_dpo_sheet_has_live_figures_and_says_what_is_not_known(
    home: Path, tmp_path: Path, solblom: Solblom, language: str, word: str
) -> None:
    file = tmp_path / "sheet.html"
    done = solblom(
        "steward", "dpo-sheet", NAME, "--lang", language, "--html", str(file), "--home", str(home)
    )
    assert done.exit_code == 0, done.stderr
    shown = Words(file.read_text()).words
    assert word in shown
    assert "thallium_scan" in shown
    assert "3.000" in shown or "2.99" in shown


def test_the_dpo_sheet_names_other_studies_of_its_name(
    own_home: Path, tmp_path: Path, solblom: Solblom
) -> None:
    other = "sha256:" + "c" * 64
    with sqlite3.connect(own_home / "coordinator.sqlite") as database:
        database.execute(
            "INSERT INTO runs SELECT 'older-run', ?, name, 1, status, transport, simulation, started, ended, reason,"
            " envelope, roster FROM runs LIMIT 1",
            (other,),
        )
        database.execute("UPDATE runs SET rowid = -1 WHERE id = 'older-run'")
    database.close()
    file = tmp_path / "sheet.html"
    done = solblom("steward", "dpo-sheet", NAME, "--html", str(file), "--home", str(own_home))
    assert done.exit_code == 0, done.stderr
    assert other in done.stderr
    assert "Other studies have this name" in Words(file.read_text()).words


def test_the_same_records_give_the_same_report(home: Path) -> None:
    def once(scene: Scene) -> str:
        with open_records(home) as records:
            text = model_report(scene, records, subject_of(scene, NAME, "v1"), now=NOW)
        return re.sub(r"in \d+\.\d\d seconds|on 20\d\d-\d\d-\d\d \d\d:\d\d UTC", "", text)

    first = once(scene_of(home))
    drawing.forget()
    assert once(scene_of(home)) == first


def test_what_was_not_checked_is_norwegian_on_a_norwegian_page(page: Page) -> None:
    english, norwegian = (page.ask(f"{MODEL}/verify?lang={lang}").body for lang in ("en", "no"))
    assert "The rounds: the weights were not aggregated" in english
    assert "The rounds: the weights were not aggregated" not in norwegian
    assert "Rundene: vektene ble ikke lagt sammen" in norwegian
    assert '<span lang="en">signed by coordinator (coordinator)</span>' in norwegian
