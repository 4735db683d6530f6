"""How long the steward's page takes over a registry of 1,000 versions and 10,000 rounds, and how it looks.

    python bench/steward_page.py [HOME] [--versions 1000] [--rounds 10] [--out FILE]
    python bench/steward_page.py [HOME] --shots FOLDER        needs chromium and Playwright; else it says so and ends

HOME is a coordinator's folder with one finished run; without it `solblom demo heart --rounds 10` makes one, to be
thrown away. For the measure its model is copied under further version numbers, and its run with rounds and answers
in the database. Nothing in HOME is changed. Pages are asked for over HTTP by one client, as a browser does; the
measure needs none.
"""

import argparse
import http.client
import importlib.util
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import report

from solblom_server.steward.languages import Language, texts
from solblom_server.steward.records import open_records
from solblom_server.steward.scene import Scene
from solblom_server.steward.serving import PageServer
from solblom_server.steward.verification import Verifier

GOAL_FIRST_PAGE_SECONDS = 1.0
LEFT_OUT = ("sites", "studies", "generated", "keys")  # a page needs none of them
ASKED = 9  # times


def scene_of(home: Path, language: Language = "en") -> Scene:
    """Return the scene of a folder."""
    return Scene(home, Verifier(home / "trust.json"), texts(language))


@contextmanager
def serving(scene: Scene) -> Iterator[PageServer]:
    """Run a page in a thread."""
    server = PageServer(scene, port=0)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join(timeout=60)
        server.close()


@contextmanager
def home_or_demo(given: Path | None) -> Iterator[Path]:
    """Give the folder that was named, or that of a demo that is run for it and thrown away."""
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        solblom = Path(sys.executable).with_name("solblom")
        subprocess.run(
            [solblom, "demo", "heart", "--rounds", "10", "--out", home, "--json"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        yield home


def grow(home: Path, target: Path, versions: int, rounds: int) -> None:
    """Copy a folder and let it hold `versions` versions and as many runs of `rounds` rounds each."""
    shutil.copytree(home, target, ignore=shutil.ignore_patterns(*LEFT_OUT))
    with sqlite3.connect(target / "coordinator.sqlite") as database:
        name, run = database.execute("SELECT name, run FROM models ORDER BY version").fetchone()
        source = target / "models" / f"{name}-v1"
        for version in range(2, versions + 1):
            # Hard links: a thousand versions of one folder take no space. Every byte is verified all the same.
            shutil.copytree(source, target / "models" / f"{name}-v{version}", copy_function=os.link)
        database.execute(
            "CREATE TEMP TABLE n AS WITH RECURSIVE c(n) AS"
            " (SELECT 2 UNION ALL SELECT n + 1 FROM c WHERE n < ?) SELECT n FROM c",
            (versions,),
        )
        database.execute(
            "INSERT INTO runs SELECT id || '-' || n.n, study, name, number + n.n, status, transport,"
            " simulation, started, ended, reason, envelope, roster FROM runs, n WHERE id = ?",
            (run,),
        )
        database.execute(
            "INSERT INTO models SELECT name, n.n, run || '-' || n.n, digest, registered FROM models, n"
            " WHERE run = ?",
            (run,),
        )
        for table, columns in (
            ("rounds", "round, status, base, result, opened, closed"),
            (
                "replies",
                "round, site, order_digest, kind, code, receipt, envelope, arrived, seconds, asked",
            ),
        ):
            database.execute(
                f"INSERT INTO {table} (run, {columns}) SELECT run || '-' || n.n, {columns}"  # noqa: S608
                f" FROM {table}, n WHERE run = ? AND round <= ?",
                (run, rounds),
            )
    database.close()


def ask(server: PageServer, path: str, cookie: str = "") -> tuple[float, str, str]:
    """Return seconds, Set-Cookie and body of one page."""
    began = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    connection.request("GET", path, headers={"Cookie": cookie} if cookie else {})
    response = connection.getresponse()
    body = response.read().decode()
    if response.status not in (200, 303):
        raise SystemExit(f"{path}: {response.status}")
    connection.close()
    return time.perf_counter() - began, response.getheader("set-cookie") or "", body


def measure(home: Path) -> dict[str, float]:
    """Return seconds of the first page after the start, of later ones, and until every version was verified."""
    found: dict[str, float] = {}
    scene = scene_of(home)
    with open_records(home) as records:
        run = records.runs(most=1)[0].id
    began = time.perf_counter()
    with serving(scene) as server:
        cookie = ask(server, server.link.partition(str(server.port))[2])[1].partition(";")[0]
        found["first page"] = ask(server, "/", cookie)[0]
        while "not checked yet" in ask(server, "/incidents", cookie)[2]:
            time.sleep(1.0)
        found["until the newest 100 are verified"] = time.perf_counter() - began
        for name, path in (
            ("page, later", "/"),
            ("last page of versions", "/?page=40"),
            ("a run", f"/runs/{run}"),
            ("incidents", "/incidents"),
        ):
            found[name] = sorted(ask(server, path, cookie)[0] for _ in range(ASKED))[ASKED // 2]
    return found


def shots(home: Path, folder: Path) -> None:
    """Write a picture of the views that the documentation shows; without a browser, say that none was made."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None or importlib.util.find_spec("playwright") is None:
        print("skipped: pictures need chromium and Playwright, and one of them is not installed")
        return
    from PIL import Image
    from playwright.sync_api import sync_playwright

    folder.mkdir(parents=True, exist_ok=True)
    with open_records(home) as records:
        model = records.models(most=1)[0]
    base = f"/models/{model.name}/v{model.version}"
    with serving(scene_of(home)) as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1000, "height": 1240})
        tab.goto(server.link)
        for name in ("evaluation",):
            tab.goto(f"http://127.0.0.1:{server.port}{base}/{name}")
            path = folder / f"steward-{name}.png"
            tab.screenshot(path=path)
            # A screen of few colours: a quarter of the bytes.
            Image.open(path).convert("RGB").quantize(64).save(path, optimize=True)
        browser.close()


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("home", type=Path, nargs="?", default=None)
    parser.add_argument("--versions", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--shots", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    if options.shots is not None:
        with home_or_demo(options.home) as home:
            shots(home, options.shots)
        return
    load = report.load_average()
    with home_or_demo(options.home) as home, tempfile.TemporaryDirectory() as folder:
        grown = Path(folder) / "home"
        grow(home, grown, options.versions, options.rounds)
        with open_records(grown) as records:
            sizes = {table: records.count(table) for table in ("models", "runs")}
        with sqlite3.connect(grown / "coordinator.sqlite") as database:
            sizes["rounds"] = int(database.execute("SELECT count(*) FROM rounds").fetchone()[0])
        database.close()
        found = measure(grown)
    first = found["first page"]
    report.finish(
        "steward_page",
        measures="seconds until a page of the steward's has arrived",
        settings={**sizes, "asked": ASKED},
        seeds=[],
        tables=[report.Table("Seconds", ("page", "seconds"),
                             tuple((name, f"{value:.2f}") for name, value in found.items()))],
        goals=[report.Goal("first page", f"below {GOAL_FIRST_PAGE_SECONDS:g} s", f"{first:.2f} s",
                           first < GOAL_FIRST_PAGE_SECONDS)],
        notes=["Median of nine, except the first page and the verifying, which happen once"],
        results={"sizes": sizes, "seconds": found},
        load_at_start=load,
        out=options.out,
    )  # fmt: skip


if __name__ == "__main__":
    main()
