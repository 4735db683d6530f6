"""What every bench writes: one JSON of the same shape, and the same tables on the screen.

A result holds what was measured, with which settings, seeds, versions and machine, and each goal
beside its outcome. No host names, no paths.
"""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from solblom_protocol.code_digest import code_digest

RESULTS = Path(__file__).parent / "results"
LIBRARIES = (
    *("cryptography", "dp-accounting", "flwr", "numpy", "opacus", "scikit-learn", "scipy"),
    *("torch", "solblom-client", "solblom-models", "solblom-server", "solblom-simulation"),
)


@dataclass(frozen=True)
class Goal:
    """A goal beside what was found. `met` None: could not be measured."""

    what: str
    goal: str
    found: str
    met: bool | None


@dataclass(frozen=True)
class Table:
    """A table of text."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def as_text(self) -> str:
        """Return the table aligned for a terminal."""
        lines = [self.columns, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.columns))]
        text = [
            "  ".join(
                cell.ljust(w) if i == 0 else cell.rjust(w)
                for i, (cell, w) in enumerate(zip(line, widths, strict=True))
            )
            for line in lines
        ]
        return "\n".join([self.title, text[0], "-" * len(text[0]), *text[1:]])

    def as_markdown(self) -> str:
        """Return the table as Markdown."""
        align = ["---", *("---:" for _ in self.columns[1:])]
        lines = [self.columns, tuple(align), *self.rows]
        return f"**{self.title}**\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def load_average() -> float:
    """Return the machine's load over the last minute."""
    return round(os.getloadavg()[0], 2)


def finish(
    name: str,
    *,
    measures: str,
    settings: dict[str, Any],
    seeds: Sequence[int],
    tables: Sequence[Table],
    goals: Sequence[Goal],
    notes: Sequence[str],
    results: dict[str, Any],
    load_at_start: float,
    out: Path | None,
) -> None:
    """Print tables, goals and notes, and write `results/<name>.json` (or `out`)."""
    value = {
        "schema": "solblom.bench/1",
        "name": name,
        "measures": measures,
        "settings": settings,
        "seeds": list(seeds),
        "versions": {library: _version(library) for library in LIBRARIES},
        "code_digest": code_digest(),
        "machine": {
            "python": platform.python_version(),
            "system": platform.system(),
            "architecture": platform.machine(),
            "cpu_count": os.cpu_count(),
            "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
            "load_at_start": load_at_start,
            "load_at_end": load_average(),
        },
        "goals": [asdict(goal) for goal in goals],
        "tables": [asdict(table) for table in tables],
        "notes": list(notes),
        "results": results,
    }
    for table in tables:
        print("\n" + table.as_text())
    print()
    for goal in goals:
        print(f"{verdict(goal.met):12}  {goal.what}: {goal.found} (goal: {goal.goal})")
    print("".join(f"\nNote: {note}" for note in notes))
    path = out or RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"\nWritten: {path.name}")


def verdict(met: bool | None) -> str:
    """Return a goal's outcome in one plain word or two."""
    return {True: "pass", False: "MISS", None: "not measured"}[met]


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"
