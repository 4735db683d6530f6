"""What the stand-alone verifier says of each model, kept as long as not a file of it was touched.

The list shows many versions, so verdicts are kept. A verdict is used again only while every file's name, size, inode
and times of change are as they were; the button on a model's page reads every byte anew.
"""

import datetime as dt
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, Thread

from solblom_verify.artefact import Verdict, verify_artefact
from solblom_verify.trust import Trust, TrustError, load_trust

Fingerprint = tuple[tuple[str, int, int, int, int], ...]
MOST_FILES = 200_000
HEAD_START = 2.0  # seconds
WITHDRAWN = "withdrawn"


@dataclass(frozen=True)
class Judgement:
    """A verdict, when it was made, and how long it took; without a usable trust file, the `problem` instead."""

    verdict: Verdict | None
    problem: str
    time: dt.datetime
    seconds: float

    @property
    def is_good(self) -> bool:
        """Whether every check passed."""
        return self.verdict is not None and self.verdict.ok

    @property
    def is_withdrawn(self) -> bool:
        """Whether all is as it was signed, and a steward has withdrawn it."""
        if self.verdict is None or self.verdict.status != WITHDRAWN:
            return False
        return [check.name for check in self.verdict.checks if not check.ok] == ["status"]

    @property
    def is_whole(self) -> bool:
        """Whether what the folder says is what was signed, so that it may be shown."""
        return self.is_good or self.is_withdrawn

    @property
    def status(self) -> str | None:
        """Where the version stands in its life, as its log says; None where it has none."""
        return None if self.verdict is None else self.verdict.status

    @property
    def reason(self) -> str:
        """Why it is not: the first check that failed."""
        if self.verdict is None:
            return self.problem
        failed = next((check for check in self.verdict.checks if not check.ok), None)
        return "" if failed is None else f"{failed.name}: {failed.reason}"


class Verifier:
    """Verifies artefacts against one trust file, and remembers."""

    def __init__(self, trust_file: Path) -> None:
        self.trust_file = trust_file
        self._known: dict[Path, tuple[Fingerprint, Judgement]] = {}
        self._lock = Lock()

    def trust(self) -> Trust:
        """Return what is trusted.

        Raises:
            TrustError: the file cannot be read or has another form.
        """
        return load_trust(self.trust_file)

    def verify(self, folder: Path) -> Judgement:
        """Read every byte of an artefact now."""
        started = time.monotonic()
        before = self._fingerprint(folder)
        now = dt.datetime.now(dt.UTC)
        try:
            verdict, problem = verify_artefact(folder, self.trust(), now=now), ""
        except TrustError as error:
            verdict, problem = None, str(error)
        made = Judgement(verdict, problem, now, time.monotonic() - started)
        # What was touched while it was read is read again next time.
        if before is not None and before == self._fingerprint(folder):
            with self._lock:
                self._known[folder] = (before, made)
        return made

    def known(self, folder: Path) -> Judgement | None:
        """Return the verdict on an artefact none of whose files was touched since; None if there is none."""
        with self._lock:
            kept = self._known.get(folder)
        if kept is None or kept[0] != self._fingerprint(folder):
            return None
        return kept[1]

    def judge(self, folder: Path) -> Judgement:
        """Return the verdict that is known, or make one."""
        return self.known(folder) or self.verify(folder)

    def judge_within(self, folders: Iterable[Path], seconds: float) -> dict[Path, Judgement | None]:
        """Return verdicts, made as long as the time lasts; None for those it did not last for."""
        end = time.monotonic() + seconds
        found: dict[Path, Judgement | None] = {}
        for folder in folders:
            known = self.known(folder)
            found[folder] = known or (self.verify(folder) if time.monotonic() < end else None)
        return found

    def start(
        self, folders: Iterable[Path], *, afterwards: Callable[[], None] | None = None
    ) -> Thread:
        """Verify artefacts in the background, in this order, so that lists need not wait."""

        def work() -> None:
            time.sleep(HEAD_START)  # who opens the link now need not share the processor
            for folder in folders:
                self.judge(folder)
            if afterwards is not None:
                afterwards()

        thread = Thread(target=work, name="steward-verifier", daemon=True)
        thread.start()
        return thread

    def _fingerprint(self, folder: Path) -> Fingerprint | None:
        """Return what changes when the artefact or the trust file is touched; None if they cannot be read."""
        try:
            found = [_stamp(str(self.trust_file), os.stat(self.trust_file))]  # noqa: PTH116
            waiting = [str(folder)]
            while waiting:
                place = waiting.pop()
                found.append(_stamp(place, os.lstat(place)))
                with os.scandir(place) as entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(entry.path)
                        else:
                            found.append(_stamp(entry.path, entry.stat(follow_symlinks=False)))
                if len(found) > MOST_FILES:
                    return None
        except OSError:
            return None
        return tuple(sorted(found))


def _stamp(path: str, stat: os.stat_result) -> tuple[str, int, int, int, int]:
    # The time of the last change of the inode cannot be set by the file's owner, unlike that of its content.
    return path, stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns
