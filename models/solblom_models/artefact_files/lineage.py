"""Where a model comes from: what it was made of, which version it supersedes, and what changed since."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from solblom_models.artefact_files.contents import ArtefactContents, EarlierVersion
from solblom_protocol.contracts.bags import BagContract
from solblom_protocol.contracts.phenopackets import PhenotypeContract
from solblom_protocol.studies.study import StudyDocument
from solblom_verify.canonical import digest, parse_canonical

MOST_CHANGES = 40
MOST_TEXT = 60  # characters of a value
UNKNOWN_CHANGES = "The earlier version's files do not fit its manifest: what changed is not known"


def parents_of(contents: ArtefactContents) -> list[dict[str, str]]:
    """Return what the model was made of, by digest and role; patients have none that may leave a hospital."""
    document = contents.document
    found = [("study", document.digest)]
    if contents.rounds:
        found.append(("initial model", contents.rounds[0].base))
    found += _public_files(document)
    return [{"role": role, "digest": named} for role, named in found]


def _public_files(document: StudyDocument) -> Iterator[tuple[str, str]]:
    contract = document.contract
    if isinstance(contract, BagContract) and contract.encoder.sha256 is not None:
        yield "encoder of tiles", f"sha256:{contract.encoder.sha256}"
    if isinstance(contract, PhenotypeContract):
        yield "ontology", contract.ontology.ontology
        yield "annotations of diseases", contract.ontology.annotations


def superseded(
    earlier: EarlierVersion | None, contents: ArtefactContents, environment: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return the version that this one supersedes, with what changed; empty for the first of a name."""
    if earlier is None:
        return []
    try:
        manifest: Any = parse_canonical(earlier.manifest)
        version, study = str(manifest["version"]), str(manifest["training"]["study"])
        is_whole = digest(earlier.manifest) == earlier.artefact and digest(earlier.study) == study
        changes = _changes(manifest, earlier.study, contents, environment) if is_whole else None
    except (ValueError, KeyError, TypeError, AttributeError):
        version, changes = "unknown", None
    told = [UNKNOWN_CHANGES] if changes is None else changes
    return [{"artefact": earlier.artefact, "version": version, "changes": told}]


def _changes(
    manifest: dict[str, Any], study: bytes, contents: ArtefactContents, environment: dict[str, Any]
) -> list[str]:
    before = dict(_leaves(json.loads(study), ""))
    after = dict(_leaves(json.loads(contents.document.payload()), ""))
    lines = [*_differences(before, after)]
    old, new = set(manifest["sites"]), set(contents.sites)
    lines += [f"hospital {site} has joined" for site in sorted(new - old)]
    lines += [f"hospital {site} no longer takes part" for site in sorted(old - new)]
    lines += _differences(
        dict(_leaves(manifest["environment"], "environment")),
        dict(_leaves(environment, "environment")),
    )
    if len(lines) > MOST_CHANGES:
        lines = [*lines[:MOST_CHANGES], f"and {len(lines) - MOST_CHANGES} more differences"]
    return lines or ["Nothing but the work itself: the same study, hospitals and environment"]


def _differences(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    return [
        f"{key}: {before.get(key, 'not there')} → {after.get(key, 'not there')}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]


def _leaves(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yield each member that is no table, by its path, as short text; a list of tables is one by one."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for number, item in enumerate(value):
            yield from _leaves(item, f"{path}.{number}")
    else:
        text = json.dumps(value, ensure_ascii=False)
        yield path, text if len(text) <= MOST_TEXT else f"{text[:MOST_TEXT]}…"
