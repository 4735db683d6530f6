"""Break one run at one point, start again what died, and say how it ended."""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fault_points import LINK, SERVER, Point
from network_lab import NetworkLab, running

ROUNDS = 3
SITES = ("north", "south")
CHANGES: dict[str, dict[str, Any]] = {
    "training": {"rounds": ROUNDS},
    "cohort": {"min_nodes": 2, "quorum": 2, "deadline_minutes": 3},
}
DISK_BYTES = 48 * 1024**2


@dataclass(frozen=True)
class Ending:
    """How a broken run ended. `recovery_seconds`: from the fault to the close of the round it hit, or the end."""

    point: str
    struck: bool
    status: str
    reason: str | None
    digest: str | None
    charges: dict[str, int]
    recovery_seconds: float | None

    def verdict(self, undisturbed: str) -> str:
        """Return `same model`, `named stop`, or what is wrong."""
        if not self.struck:
            return "NOT STRUCK"
        if any(count > ROUNDS for count in self.charges.values()):
            return "CHARGED TWICE"
        if self.status == "completed":
            return "same model" if self.digest == undisturbed else "ANOTHER MODEL"
        return "named stop" if (self.reason or "").startswith("SB-") else "STOPPED WITHOUT A NAME"


def undisturbed(folder: Path) -> tuple[str, list[float]]:
    """Return the digest of a run that nothing disturbs, and the seconds of its rounds."""
    lab = NetworkLab(folder / "home", sites=SITES, changes=CHANGES)
    with running(lab):
        run = lab.start_run()
        closed = []
        for number in range(1, ROUNDS + 1):
            lab.wait_for_rounds(run, number)
            closed.append(time.time())
        lab.wait(run)
        digest = lab.digest(run)
    if digest is None:
        raise RuntimeError("The undisturbed run gave no model")
    return digest, [b - a for a, b in itertools.pairwise(closed)]


def broken(folder: Path, point: Point, *, seconds: float = 240.0) -> Ending:
    """Run once with a fault at `point`."""
    marker = folder / "struck"
    lab = NetworkLab(folder / "home", sites=SITES, changes=CHANGES)
    with contextlib.ExitStack() as stack:
        if point.do.startswith("disk"):
            stack.enter_context(_small_disk(folder / "home"))
        if point.target is not None:
            lab.env = {"SOLBLOM_FAULT": json.dumps(_spec(point, marker))}
        stack.enter_context(running(lab))
        run = lab.start_run()
        row, ended = None, time.monotonic() + seconds
        closed_at: dict[int, float] = {}
        while time.monotonic() < ended:
            for number in range(1, lab.closed_rounds(run) + 1):
                closed_at.setdefault(number, time.time())
            _act(lab, point, marker, run)
            lab.look_after()
            row = lab.database.run(run)
            if row.status not in ("open", "stopping"):
                break
            time.sleep(0.05)
        charges = lab.charges()
        status = "never ended" if row is None or row.status == "open" else row.status
        reason = None if row is None else row.reason
        digest = lab.digest(run)
    struck = _struck_at(marker)
    later = [t for t in closed_at.values() if struck is not None and t > struck]
    recovery = None if struck is None else round(min([*later, time.time()]) - struck, 2)
    return Ending(point.name, struck is not None, status, reason, digest, charges, recovery)


def _spec(point: Point, marker: Path) -> dict[str, Any]:
    do = "wait" if point.do.startswith(("cut", "disk")) else point.do
    return {
        "target": point.target,
        "when": point.when,
        "count": point.count,
        "do": do,
        "marker": str(marker),
    }


def _act(lab: NetworkLab, point: Point, marker: Path, run: str) -> None:
    """Do from outside what a process cannot do to itself."""
    done = Path(f"{marker}.done")
    if point.target is None and not marker.exists():
        if lab.closed_rounds(run) >= int(point.when.split()[-1]):
            _mark(marker)
            _kill(lab, point.part)
    elif point.do.startswith("cut") and marker.exists() and not done.exists():
        lab.gate.cut()
        done.touch()
        time.sleep(float(point.do.split(":")[1]))
        lab.gate.restore()
    elif point.do.startswith("disk") and marker.exists() and not done.exists():
        filler = lab.home / "filler"
        with contextlib.suppress(OSError), filler.open("wb") as file:
            while True:
                file.write(b"x" * 65536)
                file.flush()
        done.touch()
        time.sleep(float(point.do.split(":")[1]))
        filler.unlink()


def _kill(lab: NetworkLab, part: str) -> None:
    """Kill a part without a chance to say goodbye; the harness plays systemd afterwards."""
    site = SITES[0]
    pids = lab.pids()
    if part == "node":
        for half in ("vault", "link"):
            os.kill(pids[f"{half} {site}"], signal.SIGKILL)
        lab.processes[site].kill()
        lab.processes[site].wait()
    elif part == "service":
        lab.processes["service"].kill()
        lab.processes["service"].wait()
    else:
        os.kill(pids.get(part, pids.get(f"{part} {site}", 0)), signal.SIGKILL)


def _mark(marker: Path) -> None:
    marker.touch()
    Path(f"{marker}.time").write_text(str(time.time()))


def _struck_at(marker: Path) -> float | None:
    path = Path(f"{marker}.time")
    return float(path.read_text()) if path.is_file() else None


@contextlib.contextmanager
def _small_disk(folder: Path) -> Any:
    """Lay a small disk in memory under a folder; needs root."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    subprocess.run(mount, check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


__all__ = ["LINK", "SERVER", "Ending", "broken", "undisturbed"]
