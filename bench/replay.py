"""Add up the rounds of every demo's model again: in other processes, with changed files, and in a rebuilt environment.

    python bench/replay.py [--rebuild] [--changes N] [--demos FOLDER] [--environment FOLDER] [--out FILE]

Runs each demo in a new folder, then, each in a process of its own:

* `solblom model replay` (grade A): to the same weights, bit for bit;
* the same with torch, Flower, Opacus, SciPy and pandas taken away;
* `solblom node replay --noise` (grades B and C) of one round at every hospital, where noise is local.

Then one random bit at a time is changed in each stored update or sum, as often as `--changes`, and the replay, which
does not look at signatures here, must name the round, and the hospital where updates are stored.

With `--rebuild`, a new virtual environment is installed from the artefact's own `code/lock.txt` and this source, and
grades A and B are done there again. `--demos` keeps the demos, or takes those that a run before has left there;
`--environment` does the same with the rebuilt environment.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from report import Goal, Table, finish, load_average

from solblom_models.replay import DifferenceError, replay
from solblom_models.replay_files import INITIAL

ROOT = Path(__file__).parents[1]
PARTS = ("verify", "protocol", "models", "client", "server", "simulation")
SEED = 20261129
WITHOUT = ("torch", "flwr", "opacus", "scipy", "pandas", "sklearn", "dp_accounting")
ALONE = (
    f"import sys; sys.modules.update(dict.fromkeys({WITHOUT}));"
    "from solblom_protocol.cli import main; main()"
)
COMMAND = "from solblom_protocol.cli import main; main()"
HOSPITALS = """
import json, sys
from typer.testing import CliRunner
from solblom_protocol.cli import app
model, number, *nodes = sys.argv[1:]
for node in nodes:
    words = ["node", "replay", model, "--round", number, "--noise", "--json", "--node", node]
    done = CliRunner().invoke(app, words)
    found = json.loads(done.stdout) if done.exit_code == 0 else {}
    print(json.dumps({"exit": done.exit_code, "said": done.stderr[-300:], **found}))
"""


@dataclass(frozen=True)
class DemoCase:
    """A demo: what it is called, and what is typed."""

    name: str
    words: tuple[str, ...]


DEMOS = (
    DemoCase("heart", ("heart",)),
    DemoCase("heart by file", ("heart", "--transport", "files")),
    DemoCase("heart, shared noise", ("heart", "--shared-noise")),
    DemoCase("rare disease", ("rare-disease",)),
    DemoCase("histology", ("histology",)),
    DemoCase("heart over a network", ("heart", "--transport", "network")),
)
WITHOUT_PRIVACY = DemoCase("heart without privacy", ("heart", "--no-privacy", "--rounds", "2"))


def environment() -> dict[str, str]:
    """Return the environment of the child processes."""
    settings = {"OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "200"}
    off = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    return {k: v for k, v in os.environ.items() if k != "SOLBLOM_HOME"} | settings | off


def call(python: str, code: str, *words: str, clean: bool = False) -> tuple[int, str, float]:
    """Run a command of Solblom in a new process; return its exit status, what it printed, and seconds."""
    env = environment()
    if clean:  # nothing of this environment may be found by the rebuilt one
        env.pop("PYTHONPATH", None)
    start = time.perf_counter()
    done = subprocess.run(
        [python, "-c", code, *words],
        env=env,
        cwd=tempfile.gettempdir(),
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr, time.perf_counter() - start


def made(case: DemoCase, folder: Path) -> Path:
    """Return the model of a demo, which is run unless its folder is there."""
    home = folder / case.name.replace(" ", "-").replace(",", "")
    if not (home / "models").is_dir():
        shutil.rmtree(home, ignore_errors=True)  # what a run that was cut off has left
        status, said, _ = call(sys.executable, COMMAND, "demo", *case.words, "--out", str(home))
        if status:
            raise RuntimeError(f"{case.name}: {said[-2000:]}")
    (model,) = (home / "models").iterdir()
    return model


def grade_a(
    python: str, model: Path, *, code: str = COMMAND, clean: bool = False
) -> dict[str, Any]:
    """Replay a model in a new process."""
    status, said, seconds = call(python, code, "model", "replay", str(model), "--json", clean=clean)
    found: dict[str, Any] = json.loads(said) if status == 0 else {"said": said[-600:]}
    return {"exit": status, "seconds": round(seconds, 2), **found}


def grade_b(python: str, model: Path, *, clean: bool = False) -> dict[str, Any]:
    """Work on the last round again at every hospital, with the noise, in one new process."""
    home = model.parents[1]
    rounds = json.loads((model / "manifest.json").read_bytes())["training"]["rounds"]
    sites = sorted(rounds[-1]["updates"])
    nodes = [str(home / "sites" / site) for site in sites]
    _, said, _ = call(python, HOSPITALS, str(model), str(len(rounds)), *nodes, clean=clean)
    found = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    empty: dict[str, Any] = {"exit": -1, "said": said[-300:]}
    return {
        site: {
            "exit": answer["exit"],
            "same": answer.get("same", False),
            "noise": answer.get("noise", {}).get("passed"),
            "said": answer["said"],
        }
        for site, answer in zip(sites, found or [empty] * len(sites), strict=False)
    }


def changes(model: Path, times: int, rng: np.random.Generator) -> tuple[int, int]:
    """Change one random bit of each stored update or sum, `times` each; return (named rightly, tried)."""
    named, tried = 0, 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(model, Path(folder) / "model"))
        for path in sorted((copy / "training").rglob("*.bin")):
            if path.relative_to(copy).as_posix() == INITIAL:
                continue
            number, _, site = path.stem.partition("-")
            before = path.read_bytes()
            for _ in range(times):
                data = bytearray(before)
                data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
                path.write_bytes(data)
                tried += 1
                try:
                    replay(copy)
                except DifferenceError as error:
                    named += (error.round, error.site) == (int(number), site or None)
            path.write_bytes(before)
    return named, tried


def rebuilt(lock: Path, folder: Path) -> str:
    """Install a new environment from an artefact's lock and this source; return its interpreter."""
    python = folder / "venv" / "bin" / "python"
    if python.is_file():
        return str(python)
    base = getattr(sys, "_base_executable", sys.executable)
    subprocess.run([base, "-m", "venv", str(folder / "venv")], check=True)
    pip = [
        str(python),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
    ]
    subprocess.run([*pip, "-r", str(lock)], check=True)
    source = folder / "source"
    for part in PARTS:
        shutil.copytree(ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([*pip, *(str(source / part) for part in PARTS)], check=True)
    return str(python)


def row(name: str, model: Path, found: dict[str, Any]) -> tuple[str, ...]:
    """Return a demo's row of the table."""
    a, bare, b = found["a"], found["bare"], found["b"]
    kept = sum(p.stat().st_size for p in (model / "training").rglob("*.bin"))
    same = sum(site["same"] for site in b.values())
    noise = sum(bool(site["noise"]) for site in b.values())
    again = found.get("rebuilt", {}).get("a", {})
    return (
        name,
        f"{a.get('rounds', '-')}",
        f"{a.get('updates', '-')}{' sums' if a.get('masked') else ''}",
        f"{kept / 1e6:.2f}",
        "the same" if a["exit"] == 0 and bare["exit"] == 0 else "DIFFERENT",
        f"{bare['seconds']:.1f}",
        f"{found['named']} of {found['tried']}",
        f"{same} of {len(b)}" if b else "refused: masked",
        f"{noise} of {len(b)}" if b else "-",
        "-" if not again else "the same" if again["exit"] == 0 else "DIFFERENT",
    )


def measure(folder: Path, times: int, python: str | None) -> dict[str, Any]:
    """Return everything found of every demo."""
    rng, results = np.random.default_rng(SEED), {}
    for case in DEMOS:
        try:
            model = made(case, folder)
        except (
            RuntimeError
        ) as error:  # a demo over a network gives up on a machine that is too busy
            print(f"NOT MADE: {error}", flush=True)
            continue
        named, tried = changes(model, times, rng)
        a = grade_a(sys.executable, model)
        found: dict[str, Any] = {
            "a": a,
            "bare": grade_a(sys.executable, model, code=ALONE),
            "b": {} if a.get("masked") else grade_b(sys.executable, model),
            "named": named,
            "tried": tried,
        }
        if python is not None:
            found["rebuilt"] = {
                "a": grade_a(python, model, clean=True),
                "b": {} if a.get("masked") else grade_b(python, model, clean=True),
            }
        results[case.name] = found
        print(f"{case.name}: {'the same' if a['exit'] == 0 else a}", flush=True)
    return results


def goals(results: dict[str, Any], unkept: dict[str, Any], rebuild: bool) -> list[Goal]:
    """Return the goals beside what was found."""
    every = results.values()
    a = sum(f["a"]["exit"] == 0 and f["bare"]["exit"] == 0 for f in every)
    sites = [site for f in every for site in f["b"].values()]
    named, tried = sum(f["named"] for f in every), sum(f["tried"] for f in every)
    again = [f["rebuilt"] for f in every if "rebuilt" in f]
    there = [site for f in again for site in f["b"].values()]
    found = [
        Goal(
            "Demos whose model is the same in another process, with and without torch and Flower",
            f"{len(DEMOS)} of {len(DEMOS)}",
            f"{a} of {len(DEMOS)}, {len(DEMOS) - len(results)} not made",
            a == len(DEMOS),
        ),
        Goal(
            "Changed bits of stored updates and sums that are named with round and hospital",
            "all",
            f"{named} of {tried}",
            named == tried > 0,
        ),
        Goal(
            "Rounds worked on again at a hospital: the same update, and noise as promised",
            "all",
            f"{sum(s['same'] and bool(s['noise']) for s in sites)} of {len(sites)}",
            bool(sites) and all(s["same"] and s["noise"] for s in sites),
        ),
        Goal(
            "A model without privacy keeps nothing and says so",
            "exit status 1",
            f"exit status {unkept['exit']}",
            unkept["exit"] == 1,
        ),
    ]
    ok = sum(f["a"]["exit"] == 0 for f in again)
    found.append(
        Goal(
            "Demos whose model is the same in an environment rebuilt from the artefact's lock",
            "all",
            f"{ok} of {len(DEMOS)}; {sum(s['same'] for s in there)} of {len(there)} hospitals' rounds"
            if rebuild
            else "not run: --rebuild",
            (ok == len(DEMOS) and all(s["same"] for s in there)) if rebuild else None,
        )
    )
    return found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rebuild", action="store_true")
    parser.add_argument("--changes", type=int, default=20)
    parser.add_argument("--demos", type=Path, default=None)
    parser.add_argument("--environment", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    load = load_average()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.demos or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        python = None
        if options.rebuild:
            lock = made(DEMOS[0], folder) / "code/lock.txt"
            python = rebuilt(lock, options.environment or Path(temporary))
        results = measure(folder, options.changes, python)
        unkept = grade_a(sys.executable, made(WITHOUT_PRIVACY, folder))
        rows = tuple(
            row(case.name, made(case, folder), results[case.name])
            for case in DEMOS
            if case.name in results
        )
    columns = (
        *("demo", "rounds", "updates", "MB kept", "grade A", "s without torch"),
        *("changed bits named", "grade B", "noise", "rebuilt"),
    )
    finish(
        "replay",
        measures="Replay of every demo's model: bit-equality, naming of changes, rounds again in hospitals",
        settings={"changes": options.changes, "rebuild": options.rebuild},
        seeds=[SEED],
        tables=[Table("Replays", columns, rows)],
        goals=goals(results, unkept, options.rebuild),
        notes=["Seconds are of a new process that verifies the model first."],
        results={**results, WITHOUT_PRIVACY.name: unkept},
        load_at_start=load,
        out=options.out,
    )


if __name__ == "__main__":
    main()
