"""What tests ask of a verdict: which checks said no themselves, and why."""

from typing import Any

from solblom_verify.canonical import digest

ATTESTATION = "attestations/model.dsse.json"
CHECKS = [
    "folder",
    "envelope",
    "statement",
    "files",
    "manifest",
    "manifest-files",
    "model",
    "receipts",
    "rounds",
    "privacy",
    "log",
    "witnesses",
    "status",
    "trust",
]
OTHER = digest(b"something else")


def failures(verdict: Any) -> dict[str, str]:
    """The checks that said no themselves, with their reasons."""
    assert [check.name for check in verdict.checks] == CHECKS
    assert verdict.ok == all(check.ok for check in verdict.checks)
    failed = {check.name: check.reason for check in verdict.checks if not check.ok}
    return {name: why for name, why in failed.items() if not why.startswith("not reached")}


def fails(verdict: Any, name: str, reason: str) -> None:
    """Only this check said no, with a reason that holds this text."""
    assert not verdict.ok
    found = failures(verdict)
    assert list(found) == [name]
    assert reason in found[name]
