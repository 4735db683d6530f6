"""The audit of a family study attacks families: a build that bounds patients only is found."""

from typing import Any

import numpy as np
import pytest

from lab import study_document
from solblom_client.cohorts import families
from solblom_simulation.audit import AuditResult, audit_study


def audit(**privacy: Any) -> AuditResult:
    document = study_document(
        privacy={"unit": "family"} | privacy,
        evaluation={"split": {"by": "family"}},
        training={"rounds": 10},
    )
    return audit_study(document, canaries=1000, seed=7)


@pytest.mark.parametrize(("epsilon", "rate"), [(3.0, 1.0), (1.0, 0.5)])
def test_the_correct_build_passes(epsilon: float, rate: float) -> None:
    assert audit(epsilon=epsilon, sampling_rate=rate).passed


def test_bounding_by_patient_instead_of_by_family_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(families, "share_of", lambda members: np.float32(1.0))
    assert not audit(epsilon=1.0, sampling_rate=1.0).passed
