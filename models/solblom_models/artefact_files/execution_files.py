"""The files that differ from one execution of the work to the next: signed, but not in the manifest (docs/adr/0003)."""

from typing import Any

from solblom_models.artefact_files.consent import consent_summary
from solblom_models.artefact_files.contents import ArtefactContents, RoundRecord
from solblom_models.artefact_files.permits import permit_files
from solblom_verify.canonical import canonical_json, digest


def execution_files(contents: ArtefactContents) -> dict[str, bytes]:
    """Return what differs from one execution of the work to the next."""
    files = {
        "training/rounds.jsonl": b"".join(_round_line(r) for r in contents.rounds),
        "consent/summary.json": canonical_json(consent_summary(contents)),
        **permit_files(contents),
    }
    for record in contents.rounds:
        for site, (envelope, _) in record.receipts.items():
            files[f"training/receipts/{record.round:03d}-{site}.dsse.json"] = envelope
    for name, envelope in contents.release_receipts.items():
        files[f"evaluation/receipts/{name}.dsse.json"] = envelope
    return files


def _round_line(record: RoundRecord) -> bytes:
    results: Any = {
        site: {"receipt": digest(envelope), "update": r.update, "work": r.work}
        for site, (envelope, r) in record.receipts.items()
    }
    return (
        canonical_json(
            {
                "round": record.round,
                "base": record.base,
                "result": record.result,
                "opened": record.opened,
                "closed": record.closed,
                "results": results,
                "refusals": record.refusals,
                "missing": record.missing,
            }
        )
        + b"\n"
    )
