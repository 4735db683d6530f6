"""The privacy statement of an artefact: every line said, "not stated" impossible (NIST SP 800-226 as a guide)."""

from typing import Any

from solblom_models.accountant import PLD_INTERVAL, format_delta, format_epsilon, pld_epsilon
from solblom_protocol.privacy_event import PrivacyEvent
from solblom_protocol.result import Receipt
from solblom_protocol.study import StudyDocument

NOT_COVERED = (
    "Floating-point artefacts of the noise: blunted by rounding to a public grid, not excluded",
    "Timing: how long a hospital takes to answer is not hidden",
    "Choice of settings: tuning on the same patients, if any, is not in these figures",
    "A patient who is in several of the hospitals: their losses add up",
    "Runs of other studies on the same patients: each hospital's own ledger has the sum",
    "What is true of the population: no privacy method hides that smoking harms smokers",
)


def site_events(receipts: list[Receipt]) -> dict[str, list[dict[str, Any]]]:
    """Return each site's privacy events, in order of rounds."""
    events: dict[str, list[dict[str, Any]]] = {}
    for receipt in sorted(receipts, key=lambda r: (r.site, r.round)):
        events.setdefault(receipt.site, []).append({"round": receipt.round, "event": receipt.event})
    return events


def site_epsilon(receipts: list[Receipt], site: str, delta: float) -> str:
    """Return what a patient of `site` has lost in this run, as a decimal string rounded up."""
    events: list[PrivacyEvent] = [r.privacy_event() for r in receipts if r.site == site]
    return format_epsilon(pld_epsilon(events, delta))


def privacy_statement(
    document: StudyDocument, receipts: list[Receipt], *, simulation: bool
) -> dict[str, Any]:
    """Return the statement as JSON: unit, neighbours, epsilon by site, mechanism, adversary, limits."""
    privacy, training = document.study.privacy, document.study.training
    delta, off = privacy.delta, privacy.epsilon == "off"
    sites = sorted({receipt.site for receipt in receipts})
    not_covered = list(NOT_COVERED)
    if simulation:
        not_covered.insert(0, "This is a simulation: keys and noise follow from a public seed")
        not_covered.insert(1, "The exact metrics shown in a simulation are outside epsilon")
    return {
        "schema": "solblom.privacy-statement/1",
        "unit": f"one {privacy.unit}, with all rows",
        "neighbours": "data sets that differ by adding or removing one patient",
        "target": {"epsilon": str(privacy.epsilon), "delta": format_delta(delta)},
        "sites": {
            site: {"epsilon": site_epsilon(receipts, site, delta), "delta": format_delta(delta)}
            for site in sites
        },
        "mechanism": (
            "none: training without noise"
            if off
            else "DP-SGD, Gaussian noise added by each hospital to its own clipped sums (Opacus)"
        ),
        "noise_multiplier": document.noise_multiplier or "0",
        "clipping_norm": repr(privacy.clipping_norm),
        "sampling": f"Poisson over patients at rate {format(privacy.sampling_rate, 'f')}, a public constant",
        "steps": training.rounds * training.local_steps,
        "accountant": f"PLD (dp-accounting 0.6.0, interval {PLD_INTERVAL:g}, pessimistic), rounded up",
        "trust": "local: each hospital's updates are private before they leave it",
        "adversary": "computationally bounded; sees every update, every model and all public constants",
        "random_numbers": "ChaCha20 keyed per piece of work; keys never leave the hospital",
        "withdrawal": "past influence of a patient is bounded by epsilon, not removed",
        "audit": "not run in this version",
        "reading": _reading(off),
        "not_covered": not_covered,
    }


def _reading(off: bool) -> str:
    if off:
        return "No privacy promise: an update may reveal single patients."
    return (
        "Whether or not one patient took part, anything anyone concludes from this training becomes at most "
        "e^epsilon times more likely, except with probability delta. Differential privacy does not protect against "
        "inferences that are true of the population."
    )
