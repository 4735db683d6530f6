"""The command `solblom-verify`: is this model what its signers say, and what was not checked."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from solblom_verify.artefact import Verdict, verify_artefact
from solblom_verify.trust import TrustError, load_trust, trust_file_of_home

_DONE, _CONFIGURATION, _INTEGRITY, _INTERRUPTED = 0, 3, 5, 130


def verdict_json(verdict: Verdict, path: Path, trust_path: Path) -> dict[str, object]:
    """Give a verdict as the object that `--json` prints."""
    return {
        "schema": "solblom.model.verify/1",
        "ok": verdict.ok,
        "path": str(path),
        "artefact": verdict.artefact,
        "name": verdict.name,
        "version": verdict.version,
        "signed": f"{verdict.signed:%Y-%m-%dT%H:%M:%SZ}" if verdict.signed else None,
        "status": verdict.status,
        "witnesses": list(verdict.witnesses),
        "trust": {"path": str(trust_path), "signers": list(verdict.signers)},
        "checks": [asdict(check) for check in verdict.checks],
        "not_checked": list(verdict.not_checked),
    }


def render_verdict(verdict: Verdict) -> str:
    """Give a verdict as text: a line per check, what was not checked, and the conclusion."""
    width = max(len(check.name) for check in verdict.checks)
    lines = [
        f"{'ok  ' if check.ok else 'FAIL'}  {check.name:<{width}}  {check.reason}".rstrip()
        for check in verdict.checks
    ]
    lines += ["", "not checked:", *(f"  - {item}" for item in verdict.not_checked), ""]
    if verdict.ok:
        lines += [f"VERIFIED: {verdict.name}@{verdict.version}", f"  {verdict.artefact}"]
    else:
        failed = next(check for check in verdict.checks if not check.ok)
        lines.append(f"NOT VERIFIED: the check '{failed.name}' failed. Do not use this model.")
    return "\n".join(map(_printable, lines))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and give its exit code: 0 verified, 2 usage, 3 configuration, 5 integrity."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a reason may hold any letter
    parser = _parser()
    options = parser.parse_args(argv)
    path: Path = options.path
    if not os.path.isdir(path):  # noqa: PTH112  # Path.is_dir raises where this says no
        parser.error(f"not a folder that can be read: {_printable(str(path))}")
    try:
        trust_path: Path = options.trust or trust_file_of_home(path)
        trust = load_trust(trust_path)
        now = datetime.now(UTC)
        verdict = verify_artefact(path, trust, now=now, fresh_log=options.log)
    except TrustError as error:
        print(f"error: {_printable(str(error))}", file=sys.stderr)
        print(
            "\nhint: Get trust.json from the steward, not from whoever sent the model,"
            "\n      and name it: solblom-verify PATH --trust FILE",
            file=sys.stderr,
        )
        return _CONFIGURATION
    except KeyboardInterrupt:
        return _INTERRUPTED
    if options.json:
        print(json.dumps(verdict_json(verdict, path, trust_path), indent=2))
    else:
        print(_printable(f"trust file: {trust_path}"))
        print(render_verdict(verdict))
    return _DONE if verdict.ok else _INTEGRITY


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="solblom-verify",
        description="Check a Solblom model artefact, offline, and say what was not checked.",
        epilog="Exit codes: 0 verified, 2 usage, 3 configuration, 5 not verified.",
    )
    parser.add_argument("path", metavar="PATH", type=Path, help="the artefact folder")
    parser.add_argument(
        "--trust",
        metavar="FILE",
        type=Path,
        help="the trust file (default: that of the Solblom folder in which PATH stands)",
    )
    parser.add_argument(
        "--log",
        metavar="FILE",
        type=Path,
        help="the coordinator's log of today, which shows whether the model was withdrawn since",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _printable(line: str) -> str:
    # File names are chosen by whoever made the folder; none may steer the reader's terminal.
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in line
    )


if __name__ == "__main__":
    sys.exit(main())
