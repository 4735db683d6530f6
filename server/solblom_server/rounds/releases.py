"""After the rounds: ask for what the study lets leave besides updates, and keep the sums (privacy.md rule 9).

One histogram of scores or ranks of the final model per run while the study has releases left, and one Table 1 per
study. Hospitals' counts are added as they arrive; only the sum is kept. A release that too few
hospitals answer is noted and takes nothing from the model.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solblom_models.released_metrics import (
    ScoreHistogram,
    released_metrics,
    released_rank_metrics,
)
from solblom_models.task import DescribingTask, find_task
from solblom_protocol.errors import IntegrityError, RunError
from solblom_protocol.messages.counts import NAMED_VALUES, unpack_release
from solblom_protocol.messages.layout import Layout
from solblom_protocol.messages.order import OrderKind
from solblom_protocol.studies.privacy_event import PrivacyEvent
from solblom_protocol.studies.study import StudyDocument
from solblom_protocol.sums.pair_masks import OpenedSum
from solblom_protocol.sums.run_sums import tolerates_dropouts
from solblom_protocol.sums.secure_sum import COUNT_BITS
from solblom_server.database import Database
from solblom_server.rounds.dropout_sum import DropoutSum
from solblom_server.rounds.exchange import (
    Collection,
    Question,
    RunContext,
    check_quorum,
    close_exchange,
    collect,
)
from solblom_server.rounds.secure_sum import collect_mask_keys, masked_sum
from solblom_verify.canonical import canonical_json, digest, parse_canonical

NAMED_BYTES = 8 * NAMED_VALUES


@dataclass
class CountSum:
    """A running sum of hospitals' counts, and what they released by name."""

    cells: int
    named: tuple[str, ...]
    total: NDArray[np.int64] = field(init=False)
    values: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.total = np.zeros(self.cells, dtype=np.int64)

    def add(self, site: str, data: bytes | memoryview) -> None:
        """Add one hospital's counts, exactly.

        Raises:
            IntegrityError: SB-404, another size than the study fixes, or numbers out of range.
        """
        counts, values = unpack_release(data, cells=self.cells, named=len(self.named))
        self.total += counts
        if self.named:
            self.values[site] = values.tolist()


@dataclass
class MaskedCountSum:
    """The same with masked counts, which show nothing before every hospital's are there."""

    cells: int
    named: tuple[str, ...]
    closed: OpenedSum
    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, site: str, data: bytes | memoryview) -> None:
        """Add one hospital's masked counts.

        Raises:
            IntegrityError: SB-404, another size than the study fixes, or numbers out of range.
        """
        size = len(data) - NAMED_BYTES * len(self.named)
        _, values = unpack_release(data[max(size, 0) :], cells=0, named=len(self.named))
        self.closed.add(site, data[: max(size, 0)])
        if self.named:
            self.values[site] = values.tolist()

    @property
    def total(self) -> NDArray[np.int64]:
        """The opened sum as whole counts.

        Raises:
            IntegrityError: SB-404, a hospital is missing, or the masks do not cancel.
        """
        counts: NDArray[np.int64] = np.rint(np.ldexp(self.closed.open(), -COUNT_BITS))
        return counts.astype(np.int64)


def run_releases(context: RunContext, model: bytes) -> None:
    """Ask for the releases that the study still allows; `model` is the run's final model."""
    document, study = context.document, context.document.digest
    made = context.database.releases(study)
    number = next_evaluation(made, context.run, digest(model), document.study.evaluation.releases)
    event = document.evaluation_event
    if number is not None and event is not None:
        cells = document.evaluation_cells
        _ask(context, "evaluate", number, model, context.layout, event, cells)
    table = document.table_one_event
    if table is not None and not any(m[1] == "describe" and _done(m[4]) for m in made):
        cells = sum(len(block["cells"]) for block in _blocks(document))
        _ask(context, "describe", 1, b"", Layout(()), table, cells)


def next_evaluation(
    made: list[tuple[str, str, int, str, str]], run: str, model: str, allowed: int
) -> int | None:
    """Return the number of the next evaluation; None when this model has one or none is left."""
    done = [m for m in made if m[1] == "evaluate" and _done(m[4])]
    if any(m[0] == run and m[3] == model for m in done):
        return None
    number = 1 + len(done)
    return number if number <= allowed else None


def _done(record: str) -> bool:
    value = parse_canonical(record.encode())
    return isinstance(value, dict) and value.get("status") == "released"


def _ask(
    context: RunContext,
    kind: OrderKind,
    number: int,
    model: bytes,
    layout: Layout,
    event: PrivacyEvent,
    cells: int,
) -> None:
    named = context.document.study.evaluation.named if kind == "evaluate" else ()
    found: CountSum | MaskedCountSum = CountSum(cells, named)
    if context.document.secure_sum is not None:
        found = MaskedCountSum(cells, named, masked_sum(context.document, cells))
    keys = collect_mask_keys(context)
    question = Question(kind, number, model, layout, event, found.add, keys)
    if tolerates_dropouts(context.document):
        _add(context, question, _record_of_droppable(context, question, cells, named))
        return
    collection = collect(context, question, sorted(context.nodes))
    record = _record(context, question, collection, found)
    if record["status"] == "released":  # otherwise replies that are on their way still count
        close_exchange(context, collection)
    _add(context, question, record)


def _add(context: RunContext, question: Question, record: dict[str, Any]) -> None:
    """Keep what a release led to."""
    context.database.add_release(
        context.run,
        context.document.digest,
        question.kind,
        question.number,
        digest(question.array),
        canonical_json(record).decode(),
    )


def _record_of_droppable(
    context: RunContext, question: Question, cells: int, named: tuple[str, ...]
) -> dict[str, Any]:
    """Return the record of a release whose sum opens without every hospital."""
    values: dict[str, list[float]] = {}

    def take_tail(site: str, data: bytes) -> None:
        values[site] = unpack_release(data, cells=0, named=len(named))[1].tolist()

    asked = DropoutSum(context, question, cells, NAMED_BYTES * len(named), take_tail)
    try:
        opened = asked.open()
    except (RunError, IntegrityError) as error:
        return {
            "status": "not released",
            "sites": [],
            "refusals": {},
            "missing": sorted(context.nodes),
            "reason": error.message,
        }
    counts = np.rint(np.ldexp(opened.values, -COUNT_BITS)).astype(np.int64)
    return {
        "status": "released",
        "sites": list(opened.survivors),
        "refusals": {},
        "missing": sorted(set(context.nodes) - set(opened.survivors)),
        "counts": counts.tolist(),
        "named": {s: [f"{v:.3f}" for v in values[s]] for s in sorted(values) if values[s]},
    }


def _record(
    context: RunContext,
    question: Question,
    collection: Collection,
    found: CountSum | MaskedCountSum,
) -> dict[str, Any]:
    record: dict[str, Any] = {
        "status": "released",
        "sites": sorted(collection.results),
        "refusals": dict(sorted(collection.refusals.items())),
        "missing": sorted(set(context.nodes) - collection.done),
    }
    try:
        check_quorum(context, question, collection)
        total = found.total.tolist()
    except (RunError, IntegrityError) as error:
        return record | {"status": "not released", "reason": error.message}
    return record | {
        "counts": total,
        # Spelled out, so that no float's spelling enters the record.
        "named": {s: [f"{v:.3f}" for v in found.values[s]] for s in sorted(found.values)},
    }


def released_report(database: Database, document: StudyDocument, run: str) -> list[dict[str, Any]]:
    """Return the releases of a run, and the study's Table 1, as they stand in evaluation/report.json."""
    reports = []
    for made_in, kind, number, model, text in database.releases(document.digest):
        record = parse_canonical(text.encode())
        if not isinstance(record, dict) or (kind == "evaluate" and made_in != run):
            continue
        base: dict[str, Any] = {"kind": kind, "number": number, "model": model, **record}
        if record.get("status") == "released":
            base |= (
                _evaluation(document, record) if kind == "evaluate" else _table(document, record)
            )
        reports.append(base)
    return reports


def _evaluation(document: StudyDocument, record: dict[str, Any]) -> dict[str, Any]:
    deviation = noise_deviation(document, "evaluate", len(record["sites"]))
    counts = np.array(record["counts"], dtype=np.int64)
    base = {
        "noise_deviation": f"{deviation:.4f}",
        "outside_epsilon": list(document.study.evaluation.named),
    }
    if document.ranks:
        return base | {"metrics": released_rank_metrics(counts, deviation=deviation)}
    metrics = released_metrics(ScoreHistogram.of(counts, deviation=deviation))
    return base | {"bins": document.study.evaluation.bins, "metrics": metrics}


def _table(document: StudyDocument, record: dict[str, Any]) -> dict[str, Any]:
    deviation, start, rows = noise_deviation(document, "describe", len(record["sites"])), 0, []
    for block in _blocks(document):
        end = start + len(block["cells"])
        rows.append({**block, "counts": record["counts"][start:end]})
        start = end
    return {"noise_deviation": f"{deviation:.4f}", "table": rows}


def noise_deviation(document: StudyDocument, kind: OrderKind, sites: int) -> float:
    """Return the standard deviation of the noise on each summed count: every hospital added its own, or its share."""
    plan, is_evaluation = document.secure_sum, kind == "evaluate"
    if plan is not None:
        share = (plan.evaluation_share if is_evaluation else plan.table_one_share) or 0
        rounding = 1.0 / 12.0  # of the sum to whole counts
        return math.sqrt(sites * (share * 2.0**-COUNT_BITS) ** 2 + rounding)
    noise = document.evaluation_noise if is_evaluation else document.table_one_noise
    return float(noise or 0.0) * math.sqrt(sites)


def _blocks(document: StudyDocument) -> list[dict[str, Any]]:
    task = find_task(document.study.task.name)
    if not isinstance(task, DescribingTask):
        return []
    return [
        {"variable": name, "cells": list(cells)} for name, cells in task.table_one_cells(document)
    ]
