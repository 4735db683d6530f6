"""Ask the public RO-Crate validator about an artefact, in a virtual environment of its own.

    python bench/crate_validator.py ARTEFACT [--environment FOLDER] [--stand-in]

`roc-validator` cannot be installed beside Flower, and reads JSON-LD contexts from the network or from a cache that it
filled there before. Where it cannot be installed or finds no context, this says `not run` and why: that is no verdict.

With `--stand-in` a context is written into its cache that has the terms of this crate only, each as RO-Crate 1.1 maps
it: to schema.org, but for File and conformsTo. Then all of its checks run, and the outcome says under which condition.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

VALIDATOR = "roc-validator==0.13.0"
PROFILE = "process-run-crate"
SECONDS = 600
FILL = """
import json, sys
import requests
from requests_cache import CachedRequest, CachedResponse, CachedSession

crate, folder = json.load(open(sys.argv[1])), sys.argv[2]
terms = {key for entity in crate["@graph"] for key in entity if not key.startswith("@")}
for entity in crate["@graph"]:
    kinds = entity["@type"]
    terms |= {kinds} if isinstance(kinds, str) else set(kinds)
context = {term: f"http://schema.org/{term}" for term in sorted(terms)}
context |= {"File": "http://schema.org/MediaObject", "conformsTo": "http://purl.org/dc/terms/conformsTo"}
session = CachedSession(cache_name=folder, backend="sqlite", expire_after=-1)
request = requests.Request("GET", crate["@context"]).prepare()
session.cache.responses[session.cache.create_key(request)] = CachedResponse(
    content=json.dumps({"@context": context}).encode(),
    headers={"Content-Type": "application/ld+json"},
    request=CachedRequest(method="GET", url=crate["@context"]),
    status_code=200,
    url=crate["@context"],
)
"""


def main() -> int:
    """Print one JSON object with the outcome; exit status 1 only where a required check failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artefact", type=Path)
    parser.add_argument("--environment", type=Path, help="kept and used again; default: a new one")
    parser.add_argument("--stand-in", action="store_true", help="write a context into the cache")
    arguments = parser.parse_args()
    if not (arguments.artefact / "ro-crate-metadata.json").is_file():
        parser.error(f"{arguments.artefact} has no ro-crate-metadata.json")
    with tempfile.TemporaryDirectory() as temporary:
        environment = arguments.environment or Path(temporary) / "venv"
        found = validate(
            arguments.artefact, environment, Path(temporary), stand_in=arguments.stand_in
        )
    print(json.dumps(found, indent=1))
    return 1 if found["outcome"] == "failed" else 0


def validate(
    artefact: Path, environment: Path, temporary: Path, *, stand_in: bool
) -> dict[str, object]:
    """Return the outcome: of required checks, and what is recommended besides."""
    python = environment / "bin" / "python"
    if not (environment / "bin" / "rocrate-validator").is_file():
        venv.create(environment, with_pip=True)
        done = run([python, "-m", "pip", "install", "-q", VALIDATOR])
        if done.returncode != 0:
            return outcome("not run", f"it cannot be installed: {last(done)}")
    cache: list[object] = []
    if stand_in:
        cache = ["--cache-path", temporary / "cache"]
        metadata = artefact / "ro-crate-metadata.json"
        done = run([python, "-c", FILL, metadata, temporary / "cache"])
        if done.returncode != 0:
            return outcome("not run", f"its cache cannot be written: {last(done)}")
    report = temporary / "report.json"
    command = [environment / "bin" / "rocrate-validator", "--no-interactive", "validate"]
    options = ["-p", PROFILE, "-l", "recommended", "--offline", "-f", "json", "-o", report]
    done = run([*command, "--no-paging", *options, *cache, artefact])
    if not report.is_file():
        return outcome("not run", f"exit status {done.returncode}: {last(done)}")
    return judge(json.loads(report.read_text(encoding="utf-8")), stand_in=stand_in)


def judge(report: dict[str, object], *, stand_in: bool) -> dict[str, object]:
    """Return what a report says; a context that is not there is no verdict."""
    issues = [
        (str(issue["severity"]), str(issue["message"]).replace("\n", " "))
        for issue in list(report["issues"])  # type: ignore[call-overload]
    ]
    if any("Unable to retrieve the JSON-LD context" in message for _, message in issues):
        return outcome("not run", "its cache has no context, and it may not use the network")
    required = [message for severity, message in issues if severity == "REQUIRED"]
    why = "with a stand-in for the context" if stand_in else "with its own cache"
    return outcome(
        "failed" if required else "passed",
        why,
        required=required,
        recommended=sorted({m for severity, m in issues if severity != "REQUIRED"}),
    )


def run(command: list[object]) -> "subprocess.CompletedProcess[str]":
    """Run a command; what it prints is kept."""
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        check=False,
        text=True,
        timeout=SECONDS,
    )


def last(done: "subprocess.CompletedProcess[str]") -> str:
    """Return the last words of a command."""
    return " ".join((done.stdout + done.stderr).split())[-300:]


def outcome(verdict: str, why: str, **more: object) -> dict[str, object]:
    """Return one outcome."""
    return {"validator": VALIDATOR, "profile": PROFILE, "outcome": verdict, "why": why, **more}


if __name__ == "__main__":
    sys.exit(main())
