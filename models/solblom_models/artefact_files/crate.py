"""ro-crate-metadata.json: the artefact as a Process Run Crate, for readers who know RO-Crate and not Solblom.

RO-Crate 1.1 (https://w3id.org/ro/crate/1.1), profile Process Run Crate 0.5 (https://w3id.org/ro/wfrun/process/0.5): one
action, the run, made the model's files from the study with Solblom, for the coordinator, with the hospitals.
It says when things happened, so it stands beside the manifest (docs/adr/0003). Files that come later, signatures and
the log, are not listed.
"""

import datetime as dt
from collections.abc import Iterable, Mapping
from typing import Any

from solblom_models.artefact_files.contents import ArtefactContents
from solblom_protocol.messages.message import timestamp
from solblom_verify.canonical import digest
from solblom_verify.wording import counted

METADATA = "ro-crate-metadata.json"
CRATE = "https://w3id.org/ro/crate/1.1"
PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
CONTEXT = (
    f"{CRATE}/context"  # has all terms that are used: not sha256, so a digest is an identifier
)
LICENCE = "Not stated by the study: to be filled in by the provider"

ALIKE = ("training/receipts/", "training/updates/", "training/sums/", "evaluation/receipts/")
"""Folders of many files of one kind: listed as a folder."""
MADE = ("manifest.json", "README.md", "model/", "privacy/", "evaluation/", "training/rounds.jsonl")
USED = ("training/study", "training/initial.bin", "code/")
_FORMATS = {
    "json": "application/json",
    "jsonl": "application/jsonl",
    "jws": "application/jwt",
    "md": "text/markdown",
    "onnx": "application/octet-stream",
    "bin": "application/octet-stream",
    "safetensors": "application/octet-stream",
    "toml": "application/toml",
    "txt": "text/plain",
}
_WORDS = {
    "manifest.json": "What the model is; its SHA-256 is the model's name",
    "README.md": "Model card, made from the manifest",
    "model/weights.safetensors": "The released weights",
    "model/architecture.json": "Task, settings, names and shapes of tensors",
    "model/preprocess.json": "The data contract: variables, units, ranges, codes, public constants",
    "model/model.onnx": "The model for other runtimes, derived from the weights",
    "model/equivalence.json": "How far another runtime agrees with torch on the test vectors",
    "code/environment.json": "Python, machine, versions of libraries",
    "code/lock.txt": "What was installed where the artefact was written",
    "code/sbom.cdx.json": "The same as a CycloneDX bill of materials, with licences",
    "training/study.json": "The signed study's payload",
    "training/study.dsse.json": "The study with the researcher's signature",
    "training/study.toml": "The study for people",
    "training/rounds.jsonl": "Rounds: times, receipts, refusals, silent hospitals",
    "training/initial.bin": "The weights before the first round",
    "training/receipts/": "Each hospital's signed receipt of each round",
    "training/updates/": "Each hospital's update of each round, as its receipt names it",
    "training/sums/": "The opened sum of each round",
    "privacy/events.json": "Privacy events by hospital and round",
    "privacy/statement.json": "The privacy statement",
    "permits/index.json": "Which permits the coordinator holds, and which it does not",
    "consent/summary.json": "What receipts say of consent, in bands and keyed digests",
    "evaluation/report.json": "The evaluation report",
    "evaluation/vectors.safetensors": "Made-up inputs, and what the model says of them",
    "evaluation/receipts/": "Hospitals' signed receipts of what was released",
}


def crate_of(
    files: Mapping[str, bytes],
    manifest: Mapping[str, Any],
    contents: ArtefactContents,
    *,
    artefact: str,
    now: dt.datetime,
) -> dict[str, Any]:
    """Return the metadata of the crate.

    Args:
        files: all files of the artefact so far, path → bytes.
        manifest: as it stands in them.
        contents: what the run leaves.
        artefact: the model's digest.
        now: when it is written.
    """
    known = {path: (len(data), digest(data)) for path, data in files.items()}
    known |= {path: (kept.size, kept.digest) for path, kept in contents.replay.files.items()}
    parts = [_part(path, known) for path in _listed(known)]
    title = f"{manifest['title']} ({manifest['name']} {manifest['version']})"
    return {
        "@context": CONTEXT,
        "@graph": [
            {
                "@id": METADATA,
                "@type": "CreativeWork",
                "about": {"@id": "./"},
                "conformsTo": {"@id": CRATE},
            },
            {
                "@id": "./",
                "@type": "Dataset",
                "conformsTo": {"@id": PROFILE},
                "name": title,
                "description": f"{manifest['purpose']}. {manifest['intended_use']}. {manifest['not_for']}.",
                "datePublished": _moment(timestamp(now)),
                "author": {"@id": "#coordinator"},
                "publisher": {"@id": "#coordinator"},
                "identifier": artefact,
                "license": {"@id": "#licence"},
                "hasPart": [{"@id": part["@id"]} for part in parts],
                "mentions": {"@id": f"#run-{contents.run}"},
            },
            *_context(manifest, contents),
            _action(_listed(known), contents, title),
            *parts,
        ],
    }


def _context(manifest: Mapping[str, Any], contents: ArtefactContents) -> list[dict[str, Any]]:
    """Return what is no file: profile, licence, software, coordinator and hospitals."""
    return [
        {"@id": PROFILE, "@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"},
        {"@id": "#licence", "@type": "CreativeWork", "name": "Licence", "description": LICENCE},
        {
            "@id": "#solblom",
            "@type": "SoftwareApplication",
            "name": "Solblom",
            "softwareVersion": manifest["environment"]["solblom"],
            "description": "Federated learning for hospitals; code/sbom.cdx.json lists its parts",
        },
        {
            "@id": "#coordinator",
            "@type": "Organization",
            "name": "The federation's coordinator",
            "description": "Its key has signed attestations/model.dsse.json",
        },
        *(
            {"@id": f"#site-{site}", "@type": "Organization", "name": site}
            for site in sorted(contents.sites)
        ),
    ]


def _action(paths: list[str], contents: ArtefactContents, title: str) -> dict[str, Any]:
    study = contents.document
    action: dict[str, Any] = {
        "@id": f"#run-{contents.run}",
        "@type": "CreateAction",
        "name": f"Training of {title}",
        "description": f"Run {contents.run} of the study {study.digest}: task {study.study.task.name}, "
        f"{len(contents.rounds)} rounds",
        "instrument": {"@id": "#solblom"},
        "agent": {"@id": "#coordinator"},
        "participant": _references(f"#site-{site}" for site in sorted(contents.sites)),
        "object": _references(path for path in paths if path.startswith(USED)),
        "result": _references(path for path in paths if path.startswith(MADE)),
        "actionStatus": "http://schema.org/CompletedActionStatus",
    }
    if contents.rounds:
        action["startTime"] = _moment(contents.rounds[0].opened)
        action["endTime"] = _moment(contents.rounds[-1].closed)
    return action


def _moment(time: str) -> str:
    """Return a time as the profile's public validator reads it: with an offset, not with Z."""
    return time.replace("Z", "+00:00")


def _references(names: Iterable[str]) -> list[dict[str, str]] | dict[str, str]:
    """Return references; one alone is no list (RO-Crate 1.1, appendix on JSON-LD)."""
    found = [{"@id": name} for name in names]
    return found[0] if len(found) == 1 else found


def _listed(names: Iterable[str]) -> list[str]:
    """Return what the crate lists, sorted: files, and folders of many alike."""
    found = {next((folder for folder in ALIKE if path.startswith(folder)), path) for path in names}
    return sorted(found)


def _part(path: str, known: Mapping[str, tuple[int, str]]) -> dict[str, Any]:
    words = _WORDS.get(path, "A permit of the study" if path.startswith("permits/") else path)
    if path.endswith("/"):
        count = sum(name.startswith(path) for name in known)
        return {
            "@id": path,
            "@type": "Dataset",
            "name": path.rstrip("/"),
            "description": f"{words}; {counted(count, 'file')}",
        }
    size, named = known[path]
    return {
        "@id": path,
        "@type": "File",
        "name": path,
        "description": words,
        "encodingFormat": _FORMATS.get(path.rpartition(".")[2], "application/octet-stream"),
        "contentSize": str(size),
        "identifier": named,
    }
