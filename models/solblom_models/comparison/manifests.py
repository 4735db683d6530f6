"""How two models came about differently: data, code, settings and privacy, as their artefacts say. No torch, no Flower.

Both folders must have been verified. What is said of data are bands and digests only: nothing else leaves a hospital.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from solblom_models.comparison.contracts import differing_variables
from solblom_protocol.errors import IntegrityError
from solblom_verify.canonical import digest, parse_canonical, read_file

MOST_LISTED = 200
"""Differences of one kind that are listed; a contract of 20,000 genes would fill the screen."""


@dataclass(frozen=True)
class Facts:
    """What an artefact says of its making.

    Attributes:
        manifest, study, statement: as JSON; the study without its contract.
        contract: as JSON.
        rounds: lines of training/rounds.jsonl.
        receipts: what hospitals signed, of training.
        files: digest of each file that is listed in the manifest, by name.
    """

    manifest: dict[str, Any]
    study: dict[str, Any]
    contract: dict[str, Any]
    statement: dict[str, Any]
    rounds: tuple[dict[str, Any], ...]
    receipts: tuple[dict[str, Any], ...]
    files: dict[str, str]


def read_facts(folder: Path) -> Facts:
    """Return what a verified artefact says of its making.

    Raises:
        IntegrityError: SB-401, a file is missing or no canonical JSON.
    """
    try:
        study = _json(folder / "training/study.json")
        manifest = _json(folder / "manifest.json")
        return Facts(
            manifest=manifest,
            contract=study.pop("contract"),
            study=study,
            statement=_json(folder / "privacy/statement.json"),
            rounds=tuple(
                json.loads(line)
                for line in read_file(folder / "training/rounds.jsonl").splitlines()
            ),
            receipts=tuple(
                _payload(path) for path in sorted(folder.glob("training/receipts/*.dsse.json"))
            ),
            files={
                name: digest(read_file(folder / name))
                for name in ("code/lock.txt", "consent/summary.json")
                if (folder / name).is_file()
            },
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise IntegrityError(
            "SB-401", f"{folder.name}: the files of its making cannot be read"
        ) from None


def _json(path: Path) -> dict[str, Any]:
    value = parse_canonical(read_file(path))
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return dict(value)


def _payload(path: Path) -> dict[str, Any]:
    envelope = json.loads(read_file(path))
    value = json.loads(base64.b64decode(envelope["payload"]))
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


def differences(old: Facts, new: Facts) -> dict[str, list[dict[str, Any]]]:
    """Return what differs under data, code, settings and privacy; each entry has `what`, `old` and `new`."""
    contract = differing_variables(old.contract, new.contract)
    return {
        "data": _cut(_named(_data(old), _data(new)) + contract),
        "code": _cut(_named(_code(old), _code(new))),
        "settings": _cut(_named(_settings(old), _settings(new))),
        "privacy": _cut(_named(_privacy(old), _privacy(new))),
    }


def _cut(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if len(found) <= MOST_LISTED:
        return found
    more = len(found) - MOST_LISTED
    return [*found[:MOST_LISTED], {"what": f"{more} more", "old": None, "new": None}]


def _named(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"what": name, "old": old.get(name), "new": new.get(name)}
        for name in sorted(set(old) | set(new))
        if old.get(name) != new.get(name)
    ]


def _data(facts: Facts) -> dict[str, Any]:
    """Return sites with the bands of their patients, in the order of rounds, and when rounds were open."""
    sites: dict[str, Any] = {}
    for receipt in sorted(facts.receipts, key=lambda r: (r["site"], r["round"])):
        bands = sites.setdefault(f"patients at {receipt['site']}", [])
        if receipt["patients"] not in bands:
            bands.append(receipt["patients"])
    found: dict[str, Any] = {name: ", ".join(bands) for name, bands in sites.items()}
    found["simulation"] = facts.manifest["simulation"]
    found["sites"] = ", ".join(sorted(facts.manifest["sites"]))
    found["cohort from"] = facts.rounds[0].get("opened")
    found["cohort until"] = facts.rounds[-1].get("closed")
    if "consent/summary.json" in facts.files:
        found["consent/summary.json"] = facts.files["consent/summary.json"]
    return found


def _code(facts: Facts) -> dict[str, Any]:
    found = flattened(facts.manifest.get("environment", {}), "")
    for receipt in facts.receipts:
        codes = found.setdefault(f"code at {receipt['site']}", [])
        if receipt["code"] not in codes:
            codes.append(receipt["code"])
    for name, value in found.items():
        if isinstance(value, list):
            found[name] = ", ".join(map(str, value))
    if "code/lock.txt" in facts.files:
        found["code/lock.txt"] = facts.files["code/lock.txt"]
    return found


def _settings(facts: Facts) -> dict[str, Any]:
    """Return the signed study field by field, what was derived from it, and how rounds were added up."""
    study = dict(facts.study)
    found = flattened(study.pop("study"), "") | flattened(study, "")
    # The keys of a secure sum's members: long, and no setting. Who they are stands under data.
    kept = {
        name: value
        for name, value in found.items()
        if "roster" not in name and not name.startswith("privacy.") and name != "noise_multiplier"
    }
    return kept | flattened(facts.manifest["training"].get("aggregation", {}), "aggregation")


def _privacy(facts: Facts) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for site, figures in facts.manifest["privacy"]["sites"].items():
        found |= {f"{name} at {site}": value for name, value in figures.items()}
    found |= flattened(facts.study["study"].get("privacy", {}), "privacy")
    return found | {"noise multiplier": facts.statement.get("noise_multiplier")}


def flattened(value: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Return nested JSON as one level of dotted names; lists as text."""
    found: dict[str, Any] = {}
    for name, part in value.items():
        below = f"{path}.{name}" if path else str(name)
        if isinstance(part, dict):
            found |= flattened(part, below)
        elif isinstance(part, list):
            found[below] = json.dumps(part, ensure_ascii=False, sort_keys=True)
        else:
            found[below] = part
    return found
