"""What the verifier and the codes say, in the page's language: chosen by their code, never by their wording.

Details that only the record has stand behind, marked as English; what has no words of ours stays English too.
"""

import re

from solblom_protocol.errors import CODES
from solblom_server.steward.blocks import Cell, English, Told
from solblom_server.steward.languages import Texts
from solblom_server.steward.verification import Judgement
from solblom_verify.artefact import Check, Verdict
from solblom_verify.history import WITHDRAWN, Status

_CODED = re.compile(r"(SB-\d{3}): (.*)", re.DOTALL)


def meaning(texts: Texts, code: str) -> Cell:
    """Return what a code means."""
    if code not in CODES:
        return English("")
    return texts.told(f"code.{code}") or English(CODES[code].title)


def coded(texts: Texts, reason: str) -> Cell:
    """Return why a run stopped, `SB-507: details`."""
    match = _CODED.fullmatch(reason)
    title = None if match is None else texts.told(f"code.{match[1]}")
    return English(reason) if title is None else Told(title, reason)


def limit(texts: Texts, code: str, sentence: str) -> Cell:
    """Return one thing that was not checked."""
    return texts.told(f"limit.{code}") or English(sentence)


def check_words(texts: Texts, check: Check) -> Cell:
    """Return what a check found: our words, then the verifier's details."""
    words = texts.told(_key(check))
    if words is None:
        return English(check.reason)
    details = "" if check.reason.startswith("not reached") else check.reason
    return Told(words, details) if details else words


def _key(check: Check) -> str:
    if not check.ok:
        is_reached = not check.reason.startswith("not reached")
        return f"failed.{check.name}" if is_reached else "other.not-reached"
    if check.name in ("log", "witnesses") and check.reason.startswith("none"):
        return {"log": "passed.no-log", "witnesses": "passed.no-witnesses"}[check.name]
    return f"passed.{check.name}"


def why_bad(texts: Texts, judgement: Judgement) -> Cell:
    """Return why a version is not to be used: who withdrew it, or the first check that failed."""
    verdict = judgement.verdict
    if verdict is None:
        return English(judgement.problem)
    decision = withdrawal(verdict)
    if judgement.is_withdrawn and decision is not None:
        return texts(
            "verdict.withdrawn_by",
            time=f"{decision.time:%Y-%m-%d %H:%M} UTC",
            by=decision.signer,
            reason=decision.reason,
        )
    failed = next((check for check in verdict.checks if not check.ok), None)
    if failed is None:
        return ""
    found = check_words(texts, failed)
    return English(judgement.reason) if isinstance(found, English) else found


def withdrawal(verdict: Verdict) -> Status | None:
    """Return the decision by which a version was withdrawn."""
    return next((entry for entry in verdict.statuses if entry.status == WITHDRAWN), None)
