"""The page in a real browser: Debian's chromium, driven by Playwright; axe looks at every view."""

import re
import shutil
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pypdf import PdfReader

from integration.demo_run import Solblom
from steward.lab import MODEL, MODEL_VIEWS, NAME, copy_of, scene_of, serving, tamper
from steward.test_pages import every_path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on this machine (apt-get install chromium)"
)
FINDINGS = ("serious", "critical")  # impacts of axe that no view may have


@dataclass
class Window:
    """A browser's tab, and every address that it asked for."""

    tab: Any
    base: str = ""
    asked: list[str] = field(default_factory=list)

    def go(self, path: str) -> str:
        """Open a path of the page; return its text."""
        self.tab.goto(self.base + path)
        return str(self.tab.inner_text("body"))

    @property
    def elsewhere(self) -> list[str]:
        """Every address that was not on the page's own host."""
        return [a for a in self.asked if not a.startswith((f"{self.base}/", "data:", "file:"))]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One browser for all tests of this file."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Root needs it in a container; nothing but our own page is opened.
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def window(browser: Any) -> Iterator[Window]:
    """A tab of its own, which remembers what it asked for."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    found = Window(context.new_page())
    found.tab.on("request", lambda request: found.asked.append(request.url))
    yield found
    context.close()


@pytest.fixture(scope="module")
def both(
    home: Path, tmp_path_factory: pytest.TempPathFactory, browser: Any
) -> Iterator[tuple[Any, Any]]:
    """A page over an honest folder and one over a folder that was tampered with, each opened once."""
    changed = copy_of(home, tmp_path_factory.mktemp("changed") / "home")
    tamper(changed)
    with serving(scene_of(home)) as good, serving(scene_of(changed)) as bad:
        good.enter()
        bad.enter()
        yield good, bad


def inside(window: Window, page: Any) -> Window:
    """Give a tab the cookie of whoever opened the page."""
    name, _, value = page.cookie.partition("=")
    window.tab.context.add_cookies([{"name": name, "value": value, "url": page.address}])
    window.base = page.address
    return window


def serious_findings(window: Window) -> list[str]:
    """Return which of axe's rules the view breaks so that it matters; all rules are tried."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(window.tab, options={"resultTypes": ["violations"]}).response["violations"]
    return [str(one["id"]) for one in found if one["impact"] in FINDINGS]


def text_of(printed: Path) -> str:
    """Return the text of a PDF, its ligatures as letters."""
    text = " ".join(page.extract_text() for page in PdfReader(printed).pages)
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text))


def test_the_terminals_link_opens_the_page_once(window: Window, home: Path, browser: Any) -> None:
    with serving(scene_of(home)) as running:
        window.base = running.address
        window.tab.goto(running.server.link)
        assert window.tab.url == f"{running.address}/"
        assert "Studies, runs and models" in window.tab.inner_text("h1")
        other = browser.new_context().new_page()
        assert "works once" in (other.goto(running.server.link) and other.inner_text("body"))
        other.context.close()
        window.tab.context.close()


@pytest.mark.parametrize("language", ["en", "no"])
def test_every_view_asks_no_other_host_and_axe_finds_nothing_serious(
    window: Window, both: tuple[Any, Any], home: Path, language: str
) -> None:
    inside(window, both[0]).go(f"/?lang={language}")
    told: list[str] = []
    window.tab.on("console", lambda message: told.append(message.text))
    found = {}
    for path in every_path(home):
        window.go(path)
        found[path] = serious_findings(window)
        images = "images => images.every(image => image.naturalWidth > 0)"
        assert window.tab.eval_on_selector_all("img", images), path
    assert {path: ids for path, ids in found.items() if ids} == {}
    assert len(found) == len(every_path(home))
    assert window.elsewhere == []
    assert told == []


def test_in_a_dark_window_every_view_is_dark_and_axe_finds_nothing_serious(
    window: Window, both: tuple[Any, Any], home: Path
) -> None:
    window.tab.emulate_media(color_scheme="dark")
    inside(window, both[0])
    shade = "getComputedStyle(document.body).backgroundColor"
    found = {}
    for path in every_path(home):
        window.go(path)
        found[path] = serious_findings(window)
        assert window.tab.evaluate(shade) == "rgb(20, 25, 29)"
    assert {path: ids for path, ids in found.items() if ids} == {}


@pytest.mark.parametrize("language", ["en", "no"])
def test_on_a_telephone_no_view_is_wider_than_the_window(
    window: Window, both: tuple[Any, Any], home: Path, language: str
) -> None:
    window.tab.set_viewport_size({"width": 390, "height": 800})
    inside(window, both[0]).go(f"/?lang={language}")
    too_wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    found = {path: window.go(path) and window.tab.evaluate(too_wide) for path in every_path(home)}
    assert {path: by for path, by in found.items() if by > 0} == {}


def test_a_tampered_model_is_red_with_its_reason_and_axe_finds_nothing_serious(
    window: Window, both: tuple[Any, Any]
) -> None:
    inside(window, both[1])
    for path in ("/", *(MODEL + view for view in MODEL_VIEWS), "/incidents"):
        shown = window.go(path)
        assert "changed file: evaluation/report.json" in shown
        assert serious_findings(window) == []
    window.go(MODEL)
    title = window.tab.locator(".notice.bad .notice-title")
    red, green, blue = map(
        int, re.findall(r"\d+", title.evaluate("e => getComputedStyle(e).color"))
    )
    assert red > 2 * green
    assert red > 2 * blue


def test_the_keyboard_alone_leads_to_the_verdict(window: Window, both: tuple[Any, Any]) -> None:
    inside(window, both[0]).go("/")

    def press_until(text: str) -> None:
        for _ in range(60):
            window.tab.keyboard.press("Tab")
            # A table can be reached too, to scroll it, and its text holds that of its links.
            link = "document.activeElement.closest('a')?.innerText ?? ''"
            if window.tab.evaluate(link) == text:
                ring = window.tab.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                assert ring != "none"
                return
        raise AssertionError(f"no Tab leads to {text}")

    window.tab.keyboard.press("Tab")
    assert "Skip to the content" in window.tab.evaluate("document.activeElement.innerText")
    press_until(f"{NAME}@v1")
    window.tab.keyboard.press("Enter")
    window.tab.wait_for_url(f"**{MODEL}")
    press_until("Verification")
    window.tab.keyboard.press("Enter")
    window.tab.wait_for_url(f"**{MODEL}/verify")
    press_until("Verify every byte again now")
    window.tab.keyboard.press("Enter")
    window.tab.wait_for_url("**fresh=1")
    assert "What was not checked" in window.tab.inner_text("main")


def test_a_report_from_the_disk_asks_for_nothing_and_prints_readably(
    window: Window, home: Path, tmp_path: Path, solblom: Solblom
) -> None:
    file, printed = tmp_path / "report.html", tmp_path / "report.pdf"
    done = solblom("steward", "report", NAME, "--html", str(file), "--home", str(home))
    assert done.exit_code == 0, done.stderr
    window.tab.goto(file.as_uri())
    assert window.elsewhere == []
    window.tab.pdf(path=str(printed), prefer_css_page_size=True)
    text = text_of(printed)
    assert 10 <= len(PdfReader(printed).pages) <= 40
    for words in (
        "Report on heart-disease@v1",
        "Verified: every byte is the one that was signed",
        "What was not checked",
        "thallium",
        "Where it comes from",
    ):
        assert words in text
    assert "file://" not in text


@pytest.mark.parametrize("language", ["en", "no"])
def test_the_dpo_sheet_prints_on_two_pages(
    window: Window, home: Path, tmp_path: Path, solblom: Solblom, language: str
) -> None:
    file, printed = tmp_path / "sheet.html", tmp_path / "sheet.pdf"
    arguments = ("--lang", language, "--html", str(file), "--home", str(home))
    assert solblom("steward", "dpo-sheet", NAME, *arguments).exit_code == 0
    window.tab.goto(file.as_uri())
    window.tab.pdf(path=str(printed), prefer_css_page_size=True)
    assert len(PdfReader(printed).pages) == 2
    assert window.elsewhere == []


def test_a_view_prints_without_its_menus(
    window: Window, both: tuple[Any, Any], tmp_path: Path
) -> None:
    printed = tmp_path / "evaluation.pdf"
    inside(window, both[0]).go(f"{MODEL}/evaluation")
    window.tab.pdf(path=str(printed), prefer_css_page_size=True)
    text = text_of(printed)
    assert "Over all hospitals" in text
    assert "Comparisons" not in text
    assert "Skip to the content" not in text
