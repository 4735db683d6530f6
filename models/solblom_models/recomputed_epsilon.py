"""Epsilon worked out again from an artefact's events, and the events held against what the hospitals signed.

A coordinator signs the whole artefact, so its signature says nothing against the coordinator. Two things do: each
hospital's receipt carries the event that the hospital signed, and events cost what they cost, whoever adds them up.

The folder must have been verified: that its bytes are the signed ones is not looked at again here.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from solblom_models.accountant import (
    format_epsilon,
    patient_epsilon,
    pld_epsilon,
    two_hospitals_epsilon,
)
from solblom_models.statement import Charge, privacy_statement
from solblom_protocol.errors import SolblomError
from solblom_protocol.messages.message import parse_message
from solblom_protocol.messages.order import OrderKind
from solblom_protocol.messages.result import RECEIPT_PAYLOAD_TYPE, Receipt
from solblom_protocol.studies.privacy_event import PrivacyEvent
from solblom_protocol.studies.study import StudyDocument, parse_document
from solblom_verify.artefact import Check, Verdict
from solblom_verify.canonical import (
    JsonValue,
    canonical_json,
    digest,
    parse_canonical,
    read_file,
)
from solblom_verify.envelope import key_id, open_envelope, public_key_from_pem
from solblom_verify.shape import JsonObject
from solblom_verify.trust import Trust
from solblom_verify.wording import counted, format_delta

CLAIMED = "epsilon"
"""The code of the verifier's limit that epsilon was not recomputed."""
PINNED, NOT_PINNED = "as the hospitals signed them", "as signed by the keys of the manifest"
RECOMPUTED = (
    "Epsilon: recomputed from events {signed}; that no event was left out whose receipt is missing "
    "here too, only the hospital's own ledger can show."
)
WORDING = "The wording of privacy/statement.json: this version would write it otherwise:"
LAST_DIGIT = Decimal("0.001")  # epsilon is printed with three decimals, rounded up
# A made-up event must not keep a verifier busy for hours (privacy.md: unknown costs infinity, here it is refused).
LEAST_NOISE, MOST_STEPS, MOST_KINDS = Decimal("0.1"), 1_000_000, 64
# Another version may word its line otherwise, but gives one pair of figures, and no other number.
_ONE_LOSS = re.compile(
    r"\D*epsilon (inf|off|[0-9]+(?:\.[0-9]+)?) at delta ([0-9.]+(?:e-?[0-9]+)?)\D*"
)
_RECEIPT = re.compile(r"(?:training|evaluation)/receipts/.+\.dsse\.json")
_Key = tuple[str, str, int, bytes]  # site, kind, round, event


class _DoubtError(ValueError):
    """A check says no, for the reason given."""


@dataclass(frozen=True)
class _Claims:
    """What an artefact says about privacy, each part from its own file."""

    document: StudyDocument
    simulation: bool
    solblom: str
    charges: tuple[Charge, ...]
    signed: tuple[Charge, ...]
    statement: JsonObject
    sites: Mapping[str, JsonValue]  # manifest.privacy.sites
    whose: str  # PINNED where the trust file pins every key that signed a receipt

    @cached_property
    def expected(self) -> dict[str, Any]:
        """The statement that the study and the events give."""
        return privacy_statement(self.document, list(self.charges), simulation=self.simulation)


def with_epsilon(verdict: Verdict, folder: Path, trust: Trust | None = None) -> Verdict:
    """Return a verdict with three more checks: events, epsilon, statement. What failed before stays failed.

    Args:
        verdict: of `verify_artefact`; where it is not good, nothing is recomputed.
        folder: of the artefact.
        trust: whose pinned keys are the hospitals'; None: no key is pinned.
    """
    if not verdict.ok:
        reason = "not reached: the artefact does not verify"
        return replace(
            verdict, checks=(*verdict.checks, *(Check(name, False, reason) for name in _CHECKS))
        )
    checks, remarks = recomputed(folder, trust)
    ok = all(check.ok for check in checks)
    limits = [limit for limit in verdict.limits if not (ok and limit[0] == CLAIMED)]
    if ok:
        limits += [("recomputed", remark) for remark in remarks]
    return replace(verdict, ok=ok, checks=(*verdict.checks, *checks), limits=tuple(limits))


def recomputed(
    folder: Path, trust: Trust | None = None
) -> tuple[tuple[Check, ...], tuple[str, ...]]:
    """Return the checks events, epsilon and statement, and what is to be said besides. Bad input never raises."""
    try:
        claims = _read(folder, trust)
    except Exception as error:
        return tuple(Check(name, False, _reason(error)) for name in _CHECKS), ()
    checks = tuple(_run(name, check, claims) for name, check in _CHECKS.items())
    return checks, _remarks(claims) if checks[-1].ok else ()


def _run(name: str, check: Callable[[_Claims], str], claims: _Claims) -> Check:
    try:
        return Check(name, True, check(claims))
    except Exception as error:  # Fail closed: what was not foreseen is a check that failed.
        return Check(name, False, _reason(error))


def _reason(error: Exception) -> str:
    if isinstance(error, SolblomError):
        return error.message[:500]
    if isinstance(error, (ValueError, OSError)):
        return str(error)[:500]
    return f"could not be checked ({type(error).__name__})"


def _read(folder: Path, trust: Trust | None) -> _Claims:
    manifest = _object(folder, "manifest.json")
    study = read_file(folder / "training/study.json")
    if digest(study) != manifest.object("training").digest("study"):
        raise _DoubtError("training/study.json is not the study that manifest.json names")
    keys = _site_keys(manifest)
    signed = tuple(_signed(folder, manifest, keys))
    is_pinned = trust is not None and all(trust.pins(c.site, keys[c.site]) for c in signed)
    document = parse_document(study)
    return _Claims(
        document=document,
        simulation=manifest.get("simulation", bool),
        solblom=manifest.object("environment").text("solblom"),
        charges=tuple(_charges(_object(folder, "privacy/events.json"), document)),
        signed=signed,
        statement=_object(folder, "privacy/statement.json"),
        sites=manifest.object("privacy").object("sites").members,
        whose=PINNED if is_pinned else NOT_PINNED,
    )


def _object(folder: Path, name: str) -> JsonObject:
    return JsonObject.of(parse_canonical(read_file(folder / name)), name)


def _charges(events: JsonObject, document: StudyDocument) -> Iterator[Charge]:
    for site in events.members:
        kinds = set()
        for entry in events.objects(site):
            entry.only({"round", "kind", "event"})
            event = PrivacyEvent.from_json(entry.get("event", dict))
            if Decimal(event.noise_multiplier) < LEAST_NOISE and event.kind != "no-privacy":
                raise _DoubtError(f"{entry.where}: less noise than any study may ask for")
            if event.steps > MOST_STEPS:
                raise _DoubtError(f"{entry.where}: more steps than any study may ask for")
            kinds.add((event.kind, event.sampling_rate, event.noise_multiplier, event.slack))
            _check_unit(entry, event, document)
            if len(kinds) > MOST_KINDS:
                raise _DoubtError(f"{events.where}: too many different events at {site}")
            yield Charge(entry.get("round", int), site, event, entry.text("kind"))


def _check_unit(entry: JsonObject, event: PrivacyEvent, document: StudyDocument) -> None:
    """Refuse an event that counts for another unit than the study, or for a patient less than its kind does."""
    if (event.patient_steps is not None) != document.by_family:
        raise _DoubtError(f"{entry.where}: its unit is not the study's")
    if event.patient_steps is None:
        return
    # Sums over everybody: once. Sampled families, and counts: twice (docs/adr/0021).
    once = entry.text("kind") == "train" and Decimal(event.sampling_rate) == 1
    paid = event.steps if once else 2 * event.steps
    if event.patient_steps != paid:
        raise _DoubtError(
            f"{entry.where}: patient_steps is {event.patient_steps}; of {event.steps} such steps one "
            f"patient pays {paid}"
        )


def _site_keys(manifest: JsonObject) -> dict[str, Ed25519PublicKey]:
    return {
        site: public_key_from_pem(entry.text("node_key"))
        for site, entry in manifest.object("sites").items()
    }


def _signed(
    folder: Path, manifest: JsonObject, keys: Mapping[str, Ed25519PublicKey]
) -> Iterator[Charge]:
    """Give what each stored receipt says was done; its signature is that of the site's key in the manifest."""
    for path in sorted(folder.glob("*/receipts/*.dsse.json")):
        name = path.relative_to(folder).as_posix()
        if not _RECEIPT.fullmatch(name):
            raise _DoubtError(f"a receipt where none belongs: {name}")
        owners = {key_id(key): key for key in keys.values()}
        opened = open_envelope(read_file(path), payload_type=RECEIPT_PAYLOAD_TYPE, keys=owners)
        receipt = parse_message(Receipt, opened.payload)
        key = keys.get(receipt.site)
        if key is None or opened.signers != (key_id(key),):
            raise _DoubtError(f"{name} is not signed by the site that it names")
        training = manifest.object("training")
        if (receipt.run, receipt.study) != (training.text("run"), training.digest("study")):
            raise _DoubtError(f"{name} belongs to another run or study")
        yield Charge(receipt.round, receipt.site, receipt.privacy_event(), receipt.kind)


def _check_events(claims: _Claims) -> str:
    stated = Counter(_key(charge) for charge in claims.charges)
    signed = Counter(_key(charge) for charge in claims.signed)
    missing = sorted((signed - stated).elements())
    if missing:
        site, kind, number, _ = missing[0]
        there = any(key[:3] == (site, kind, number) for key in stated)
        what = "says another event than" if there else "lacks the event of"
        more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise _DoubtError(
            f"privacy/events.json {what} the receipt that {site} signed: "
            f"{_name_of(kind)} {number}{more}"
        )
    beyond = (stated - signed).total()
    told = f"{counted(signed.total(), 'event')} {claims.whose}"
    # A second answer to a round is charged too, and only the first one's receipt is kept.
    return f"{told}, {beyond} more without a receipt here" if beyond else told


def _key(charge: Charge) -> _Key:
    return charge.site, charge.kind, charge.round, canonical_json(charge.event.to_json())


def _name_of(kind: OrderKind | str) -> str:
    return "round" if kind == "train" else f"release ({kind})"


def _check_epsilon(claims: _Claims) -> str:
    by_site: dict[str, list[PrivacyEvent]] = {}
    for charge in claims.charges:
        by_site.setdefault(charge.site, []).append(charge.event)
    delta, stated = claims.document.study.privacy.delta, claims.statement.object("sites")
    silent = sorted(set(by_site) - set(stated.members))
    if silent:
        raise _DoubtError(f"privacy/statement.json has no epsilon for {silent[0]}")
    for site, entry in stated.items():
        if entry.text("delta") != format_delta(delta):
            raise _DoubtError(f"{site}: delta is not the study's, {format_delta(delta)}")
        for name, found in _figures(by_site.get(site, []), delta, entry).items():
            if _less(entry.text(name), found):
                raise _DoubtError(
                    f"{site}: {name} is stated as {entry.text(name)}, "
                    f"and its events cost {format_epsilon(found)}"
                )
    return f"{counted(len(stated.members), 'hospital')}, dp-accounting {version('dp-accounting')}"


def _figures(events: list[PrivacyEvent], delta: float, entry: JsonObject) -> dict[str, float]:
    found = {"epsilon": pld_epsilon(events, delta)}
    by_family = any(event.patient_steps is not None for event in events)
    if by_family or "epsilon_of_one_patient" in entry.members:
        found["epsilon_of_one_patient"] = patient_epsilon(events, delta)
    shared = any(event.alone_noise_multiplier is not None for event in events)
    if shared or "epsilon_alone" in entry.members:
        found["epsilon_alone"] = patient_epsilon([e.alone() for e in events], delta)
    if shared or "epsilon_in_two_hospitals" in entry.members:
        found["epsilon_in_two_hospitals"] = two_hospitals_epsilon(events, delta)
    return found


def _less(stated: str, found: float) -> bool:
    """Tell whether a figure is stated as less than it is, by more than the last digit printed."""
    if stated in ("inf", "off"):
        return False
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", stated):
        raise _DoubtError("an epsilon is no plain decimal number")
    return Decimal(stated) + LAST_DIGIT <= Decimal(repr(found))


def _check_statement(claims: _Claims) -> str:
    statement = claims.statement
    if statement.get("sites", dict) != dict(claims.sites):
        wrong = _first_difference(statement.get("sites", dict), dict(claims.sites))
        raise _DoubtError(f"{wrong}: manifest.json and privacy/statement.json say two things")
    expected = claims.expected
    for name in ("target", "noise_multiplier", "clipping_norm"):
        if statement.members.get(name) != expected[name]:
            raise _DoubtError(f"privacy/statement.json: {name} is not the study's")
    figures = [str(entry["epsilon"]) for entry in expected["sites"].values()]
    worst = max(figures, key=lambda text: Decimal(text.replace("inf", "Infinity")), default="0.000")
    said, delta = _ONE_LOSS.fullmatch(statement.text("loss")), claims.document.study.privacy.delta
    if said is None or said[2] != format_delta(delta) or _less(said[1], float(worst)):
        raise _DoubtError(
            f"privacy/statement.json: its line on the loss does not say {worst} at delta "
            f"{format_delta(delta)}, and no other figure"
        )
    other = _other_wording(claims)
    if other and claims.solblom == version("solblom-models"):
        raise _DoubtError(f"privacy/statement.json: the events do not give its {other[0]}")
    return ""


def _other_wording(claims: _Claims) -> list[str]:
    """Return the members of the statement that this version would write otherwise, figures apart."""
    expected, stated = dict(claims.expected), dict(claims.statement.members)
    for statement in (expected, stated):  # the epsilon of the loss is compared as a number
        statement["loss"] = re.sub(r"epsilon [^ ]+ at", "epsilon at", str(statement["loss"]))
    names = sorted(set(expected) | set(stated))
    return [n for n in names if n != "sites" and expected.get(n) != stated.get(n)]


def _remarks(claims: _Claims) -> tuple[str, ...]:
    other = _other_wording(claims)
    told = (RECOMPUTED.format(signed=claims.whose),)
    return (*told, f"{WORDING} {', '.join(other)}.") if other else told


def _first_difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    return next(site for site in sorted(set(one) | set(other)) if one.get(site) != other.get(site))


_CHECKS: dict[str, Callable[[_Claims], str]] = {
    "events": _check_events,
    "epsilon": _check_epsilon,
    "statement-figures": _check_statement,
}
