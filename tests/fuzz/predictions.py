"""Parsers of what a prediction and a comparison leave behind, years later perhaps not as it was."""

import json
from functools import cache
from pathlib import Path

from fuzz.target import Target, file_in
from solblom_models.comparison.record import SCHEMA, differing_parts, read_record
from solblom_models.receipt_check import compare_receipts, read_output, read_receipt
from solblom_verify.canonical import canonical_json, digest

_ZERO = digest(b"")
_OUTPUTS = {"model": _ZERO, "ref": "lab@v1", "predictions": [{"id": "p1", "probability": 0.25}]}


@cache
def _receipt() -> bytes:
    keyed = "hmac-sha256:" + "0" * 64
    receipt = {
        "schema": "solblom.prediction/1",
        "model": _ZERO,
        "ref": "lab@v1",
        "study": _ZERO,
        "contract": _ZERO,
        "code": _ZERO,
        "runtime": {"python": "3.11.7", "packages": {"torch": "2.13.0"}},
        "input": keyed,
        "recalibration": None,
        "output": digest(canonical_json(_OUTPUTS)),
        "use": "research",
        "warnings": ["Research use"],
        "created": "2026-11-29T12:00:00Z",
    }
    return json.dumps(receipt).encode()


@cache
def _printed() -> bytes:
    return json.dumps({"schema": "solblom.model.predict/1", **_OUTPUTS}).encode()


@cache
def _record() -> bytes:
    body = {
        "schema": SCHEMA,
        "runtime": {"python": "3.11.7"},
        "performance": {"auroc": {"old": [0.7, 0.6, 0.8]}},
        "notes": ["a", "b"],
    }
    return canonical_json(body)


def _receipt_again(data: bytes, folder: Path) -> object:
    found = read_receipt(file_in(folder, "receipt.json", data))
    kept = read_receipt(file_in(folder, "kept.json", _receipt()))
    return compare_receipts(found, kept, printed=None, outputs=_OUTPUTS, other_code=True)


def _printed_again(data: bytes, folder: Path) -> object:
    printed = read_output(file_in(folder, "printed.json", data))
    kept = read_receipt(file_in(folder, "kept.json", _receipt()))
    return compare_receipts(kept, kept, printed=printed, outputs=_OUTPUTS, other_code=False)


def _record_again(data: bytes, folder: Path) -> object:
    found = read_record(file_in(folder, "comparison.json", data))
    kept = read_record(file_in(folder, "kept.json", _record()))
    return differing_parts(found, kept)


PREDICTIONS = (
    Target("prediction-receipt", _receipt_again, lambda: (_receipt(),)),
    Target("printed-prediction", _printed_again, lambda: (_printed(),)),
    Target("comparison-record", _record_again, lambda: (_record(),)),
)
