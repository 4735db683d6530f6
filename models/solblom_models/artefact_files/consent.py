"""consent/summary.json: what the hospitals' receipts say of consent, and what they do not say.

A receipt carries the band of the training set and two keyed digests, of consent and of cohort. Nobody can search them
for a patient without the hospital's key, and the hospital can later show that it did not change either
(privacy.md rules 2 and 12). Never a list, never an exact count.
"""

from typing import Any

from solblom_models.artefact_files.contents import ArtefactContents
from solblom_protocol.messages.result import BANDS

UNTOLD = (
    "Rule (opt-in or opt-out) and source of consent stand in each hospital's own settings: no receipt carries them",
    "How many patients were excluded, or have withdrawn since: hospitals do not say",
)
MEANING = (
    "Keyed digests of who consented and of who was trained on, as each receipt gives them. "
    "Only the hospital can compare them with its own records"
)


def consent_summary(contents: ArtefactContents) -> dict[str, Any]:
    """Return the summary as JSON.

    Raises:
        ValueError: a receipt names a number of patients that is no band.
    """
    return {
        "schema": "solblom.consent-summary/1",
        "unit": contents.document.study.privacy.unit,
        "commitments": MEANING,
        "not_told": list(UNTOLD),
        "sites": {site: _of_site(contents, site) for site in sorted(contents.sites)},
    }


def _of_site(contents: ArtefactContents, site: str) -> dict[str, Any]:
    rounds = []
    for record in contents.rounds:
        if site not in record.receipts:
            continue
        receipt = record.receipts[site][1]
        if receipt.patients not in BANDS:
            raise ValueError("a patient count leaves a hospital in bands only")
        rounds.append(
            {
                "round": record.round,
                "patients": receipt.patients,
                "consent": receipt.consent,
                "cohort": receipt.cohort,
            }
        )
    return {"rule": None, "source": None, "rounds": rounds}
