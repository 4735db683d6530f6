"""What every view needs: the folder, the verifier, the words; and how records become cells."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from solblom_models.accountant import format_epsilon
from solblom_server.steward.artefact_files import ArtefactFiles
from solblom_server.steward.blocks import Badge, Cell, Code, English, Link, Notice, Time, Tone
from solblom_server.steward.findings import why_bad
from solblom_server.steward.languages import Texts
from solblom_server.steward.verification import Judgement, Verifier

RUN_TONES: dict[str, Tone] = {
    "completed": "good",
    "failed": "bad",
    "stopped": "warn",
    "stopping": "warn",
}
STATUS_TONES: dict[str, Tone] = {
    "candidate": "quiet",
    "validated": "good",
    "released": "good",
    "withdrawn": "bad",
    "affected": "warn",
}


@dataclass(frozen=True)
class Scene:
    """Where the page looks, and in which language it speaks."""

    home: Path
    verifier: Verifier
    texts: Texts
    comparisons: tuple[Path, ...] = ()

    @property
    def models(self) -> Path:
        """The registry."""
        return self.home / "models"


def short_digest(digest: str) -> str:
    """Return the first twelve digits of a digest, for places with little room."""
    return digest.removeprefix("sha256:")[:12] + "…"


def day_and_time(text: str | None) -> str:
    """Return an RFC 3339 time as people read it: 2026-11-29 13:33 UTC."""
    if not text:
        return ""
    return f"{text[:10]} {text[11:16]} UTC" if len(text) >= 16 else text


def when(text: str | None) -> Cell:
    """Return a time for a table; a dash where there is none."""
    return Time(day_and_time(text)) if text else "–"


def verdict_badge(texts: Texts, judgement: Judgement | None) -> Badge:
    """Return what is known of an artefact in two words."""
    if judgement is None:
        return Badge(texts("verdict.unknown"), "quiet")
    if judgement.verdict is None:
        return Badge(texts("verdict.no_trust"), "warn")
    if judgement.is_withdrawn:
        return Badge(texts("verdict.withdrawn"), "bad")
    return (
        Badge(texts("verdict.good"), "good")
        if judgement.is_good
        else Badge(texts("verdict.bad"), "bad")
    )


def run_badge(texts: Texts, status: str) -> Badge:
    """Return a run's status."""
    key = f"run_status.{status}"
    return Badge(texts(key) if texts.has(key) else status, RUN_TONES.get(status, "quiet"))


def status_badge(texts: Texts, status: str | None) -> Cell:
    """Return where a version stands in its life; a dash where no log says so."""
    if status is None:
        return "–"
    key = f"status.{status}"
    return Badge(texts(key) if texts.has(key) else status, STATUS_TONES.get(status, "quiet"))


def bad_notice(scene: Scene, judgement: Judgement) -> Notice:
    """Return what stands in place of figures that cannot be trusted."""
    texts, why = scene.texts, why_bad(scene.texts, judgement)
    if judgement.verdict is None:
        lines: tuple[Cell, ...] = (why, texts("verdict.no_trust_more"))
        return Notice("warn", texts("verdict.no_trust_title"), lines)
    if judgement.is_withdrawn:
        withdrawn = (why, texts("verdict.withdrawn_more"))
        return Notice("bad", texts("verdict.withdrawn_title"), withdrawn)
    failed = {check.name for check in judgement.verdict.checks if not check.ok}
    more = "verdict.unwitnessed_more" if failed <= {"witnesses", "status"} else "verdict.bad_more"
    lines = (why, texts(more))
    return Notice("bad", texts("verdict.bad_title"), lines)


def epsilon_text(value: float) -> str:
    """Return epsilon as it is written everywhere: three decimals, rounded up."""
    return format_epsilon(value)


def model_link(name: str, version: int | str) -> Link:
    """Return the way to a version."""
    number = str(version).removeprefix("v")
    return Link(f"{name}@v{number}", f"/models/{name}/v{number}")


def run_link(run: str) -> Link:
    """Return the way to a run."""
    return Link(run, f"/runs/{run}")


def study_link(digest: str, text: str) -> Link:
    """Return the way to a study."""
    return Link(text, f"/studies/{digest.removeprefix('sha256:')}")


def digest_cell(digest: str | None) -> Cell:
    """Return a whole digest, or a dash where there is none."""
    return Code(digest) if digest else "–"


def number(value: float | None, form: str = ".3f") -> str:
    """Return a number, or a dash where none is shown."""
    return "–" if value is None else format(value, form)


def interval(found: Sequence[float] | None) -> str:
    """Return a figure with its interval: 0.881 [0.834, 0.917]."""
    if found is None:
        return "–"
    value, low, high = found
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


@dataclass(frozen=True)
class Subject:
    """A version that is looked at: its folder, its verdict, and its files where the verdict is good."""

    name: str
    version: int
    folder: Path
    judgement: Judgement

    @property
    def ref(self) -> str:
        """As people write it."""
        return f"{self.name}@v{self.version}"

    @property
    def artefact(self) -> str | None:
        """Digest of the manifest, where its check passed."""
        return None if self.judgement.verdict is None else self.judgement.verdict.artefact

    @property
    def files(self) -> ArtefactFiles | None:
        """The artefact's files; None where not every byte is the signed one: then nothing in it is the truth."""
        return ArtefactFiles(self.folder) if self.judgement.is_whole else None


def meaning_of_replay(texts: Texts, grade: object) -> Cell:
    """Return whether the model can be made again from what the artefact keeps."""
    if grade == "A":
        return Badge(texts("model.replay_a"), "good")
    return English(str(grade)) if grade else texts("model.replay_unknown")
