"""Exact evaluation of bags in a simulation: a table's report, and beside it what pathologists ask of a yes or no."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from solblom_models.slide_mil.bags import BagUnits
from solblom_protocol.studies.study import StudyDocument
from solblom_simulation.decision_report import (
    KINDS,
    OF_PATIENTS,
    THRESHOLDS,
    Answers,
    Scored,
    by_scanner,
    decision_figures,
    gain,
    together,
)
from solblom_simulation.table_evaluation import SiteData, metrics_of, report_of, site_scores


def evaluate_slides(
    document: StudyDocument, weights: bytes, sites: Sequence[SiteData]
) -> dict[str, Any]:
    """Return the exact report of bags: all per patient, intervals over patients.

    Args:
        document: the study.
        weights: the final model, flat little-endian float32.
        sites: training and test patients by hospital, as bags.
    """
    scores = site_scores(document, weights, sites)
    report = report_of(document, scores, sites)
    scored = {
        kind: [
            Scored(
                training=scores.training[kind][i],
                training_labels=site.training.labels,
                test=scores.test[kind][i],
                test_labels=site.test.labels,
                test_patients=np.arange(len(site.test.ids)),
            )
            for i, site in enumerate(sites)
        ]
        for kind in KINDS
    }
    answers = {kind: [of.answers() for of in scored[kind]] for kind in KINDS}
    for i, entry in enumerate(report["sites"]):
        for kind in KINDS:
            entry["metrics"][kind] |= decision_figures(answers[kind][i], OF_PATIENTS)
            entry["metrics"][kind]["threshold"] = round(scored[kind][i].threshold, 6)
        entry["federated_minus_local"] = gain(
            answers["federated"][i], answers["local"][i], OF_PATIENTS
        )
    for kind in KINDS:
        report["all"][kind] |= decision_figures(together(answers[kind]), OF_PATIENTS)
    groups = _by_scanner(together(answers["federated"]), sites)
    report["subgroups"] |= {"scanner": groups} if groups else {}
    return report | {"measure": "slides", "thresholds": THRESHOLDS}


def _by_scanner(answers: Answers, sites: Sequence[SiteData]) -> dict[str, dict[str, Any]]:
    named = [
        (site.test.scanners if isinstance(site.test, BagUnits) else (), len(site.test.ids))
        for site in sites
    ]
    return by_scanner(
        answers,
        named,
        lambda group: metrics_of(group.labels, group.scores) | decision_figures(group, OF_PATIENTS),
    )
