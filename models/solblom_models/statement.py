"""The privacy statement of an artefact: fifteen lines, each of them said.

The lines follow the hazards of NIST SP 800-226. "Not stated" is impossible: a line that is missing or empty does not
pass the schema, so no artefact is written.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from solblom_models.accountant import (
    PLD_INTERVAL,
    filter_order,
    format_epsilon,
    patient_epsilon,
    pld_epsilon,
    rdp_epsilon,
    two_hospitals_epsilon,
)
from solblom_protocol.messages.message import as_json
from solblom_protocol.studies.privacy_event import PrivacyEvent, exact_decimal
from solblom_protocol.studies.study import StudyDocument
from solblom_verify.wording import counted, format_delta

Line = Annotated[str, Field(min_length=20, pattern=r"\S")]

NOT_COVERED = (
    "Floating-point artefacts of the noise: blunted by rounding to a public grid, not excluded",
    "Timing: how long a hospital takes to answer is not hidden",
    "The band of each hospital's patient count, and the code with which it refuses: coarse, without noise",
    "A question asked twice: a second answer that differs shows that the cohort changed in between",
    "A patient who is in several of the hospitals: their losses add up",
    "Runs of other studies on the same patients: each hospital's own ledger has the sum",
    "What is true of the population: no privacy method hides that smoking harms smokers",
)
SIMULATED = (
    "This is a simulation: one machine made all the keys, noise included, from a seed that anybody knows",
    "The exact metrics shown in a simulation are outside epsilon",
)


BAND, SEVERAL_HOSPITALS = NOT_COVERED[2], NOT_COVERED[4]
FAMILIES = (
    "A family with members at several of the hospitals, or a patient there: their losses add up",
    "Relatives whom a hospital's data set does not name as of one family: each is a family of its own",
)
"""Instead of SEVERAL_HOSPITALS, where the unit is the family."""

SHARED = (
    "Rounding of float32 sums of clipped contributions, before they are put on the integer grid",
    "More colluding hospitals than assumed: then what each hospital's own share gives alone",
)


class PrivacyStatement(BaseModel):
    """The fifteen lines, in order, and the figures they speak of."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_: str = Field("solblom.privacy-statement/1", alias="schema")
    unit: Line
    neighbours: Line
    loss: Line
    mechanism: Line
    sampling: Line
    accountant: Line
    trust: Line
    adversary: Line
    not_covered: Annotated[tuple[Line, ...], Field(min_length=1)]
    random_numbers: Line
    side_channels: Line
    withdrawal: Line
    audit: Line
    utility: Line
    reading: Line
    sites: dict[str, dict[str, str]]
    target: dict[str, str]
    noise_multiplier: str
    clipping_norm: str


@dataclass(frozen=True)
class Charge:
    """One piece of work that a site reported: a round answered twice with two cohorts is two."""

    round: int
    site: str
    event: PrivacyEvent
    kind: str = "train"


def site_events(charges: list[Charge]) -> dict[str, list[dict[str, Any]]]:
    """Return each site's privacy events, in order of rounds."""
    events: dict[str, list[dict[str, Any]]] = {}
    for charge in sorted(charges, key=lambda c: (c.site, c.round)):
        entry = {"round": charge.round, "kind": charge.kind, "event": charge.event.to_json()}
        events.setdefault(charge.site, []).append(entry)
    return events


def privacy_statement(
    document: StudyDocument, charges: list[Charge], *, simulation: bool
) -> dict[str, Any]:
    """Return the statement as JSON.

    Raises:
        ValueError: a line would be empty.
    """
    privacy = document.study.privacy
    off = privacy.epsilon == "off"
    events: dict[str, list[PrivacyEvent]] = {site: [] for site in sorted({c.site for c in charges})}
    for charge in charges:
        events[charge.site].append(charge.event)
    statement = PrivacyStatement(
        schema="solblom.privacy-statement/1",
        unit=_unit(document),
        neighbours=f"Data sets that differ by adding or removing one {privacy.unit}",
        loss=_loss(events, privacy.delta),
        mechanism=_mechanism(document),
        sampling=_sampling(document),
        accountant=_accountant(events, privacy.delta),
        trust=_trust(document),
        adversary="Computationally bounded; sees every update, every model and all public constants",
        not_covered=(SIMULATED if simulation else ())
        + _not_covered(document)
        + (SHARED if document.secure_sum is not None else ())
        + _outside(document, charges)
        + (_tuning(document),),
        random_numbers=(
            "ChaCha20 keyed for each piece of work; outside a simulation its key never leaves the hospital"
        ),
        side_channels="Timing, memory and crashes were not tested",
        withdrawal=(
            "Past influence of a patient is bounded by epsilon, not removed; relatives stay"
            if document.by_family
            else "Past influence of a patient is bounded by epsilon, not removed"
        ),
        audit="No audit result is part of this artefact; `solblom audit privacy` attacks the settings",
        utility="In evaluation/report.json where released; figures by subgroup in a simulation only",
        reading=_reading(privacy.unit, off=off),
        sites={
            site: {
                "epsilon": format_epsilon(pld_epsilon(found, privacy.delta)),
                "delta": format_delta(privacy.delta),
                **_patient_figure(document, found),
                **_shared_figures(document, found),
            }
            for site, found in events.items()
        },
        target={"epsilon": str(privacy.epsilon), "delta": format_delta(privacy.delta)},
        noise_multiplier=document.noise_multiplier or "0",
        clipping_norm=repr(privacy.clipping_norm),
    )
    result: dict[str, Any] = as_json(statement)
    return result


def _trust(document: StudyDocument) -> str:
    plan, table = document.secure_sum, document.study.secure_sum
    if plan is None or table is None:
        return (
            "Local: each hospital's updates are private before they leave it; no secure sum is used"
        )
    nodes = len(plan.roster.members)
    return (
        f"Shared: vectors of {nodes} hospitals add up under masks, at least {document.threshold} in a sum, and "
        "no single one is seen. The loss holds "
        f"if at most {counted(table.colluders, 'hospital')} of them works with the coordinator; what each "
        "one's own share of the noise gives alone stands under sites"
    )


def _unit(document: StudyDocument) -> str:
    if document.by_family:
        return (
            "One family as the hospital's data set names it, with all rows of all its members there; a patient of no "
            "family is one alone. One patient whose family stays is protected too: epsilon_of_one_patient"
        )
    return "One patient, with all rows in all of a hospital's data sets"


def _not_covered(document: StudyDocument) -> tuple[str, ...]:
    if not document.by_family:
        return NOT_COVERED
    instead = {SEVERAL_HOSPITALS: FAMILIES, BAND: (BAND.replace("patient", "family"),)}
    lines = [instead.get(line, (line,)) for line in NOT_COVERED]
    return tuple(line for part in lines for line in part)


def _patient_figure(document: StudyDocument, events: list[PrivacyEvent]) -> dict[str, str]:
    """Return what events that protect families cost one patient at most, whose family stays or not (docs/adr/0021)."""
    if not document.by_family:
        return {}
    delta = document.study.privacy.delta
    return {"epsilon_of_one_patient": format_epsilon(patient_epsilon(events, delta))}


def _shared_figures(document: StudyDocument, events: list[PrivacyEvent]) -> dict[str, str]:
    """Return what holds for a patient if all others work together, and for one of two hospitals (rule 7)."""
    if document.secure_sum is None:
        return {}
    delta = document.study.privacy.delta
    alone = patient_epsilon([event.alone() for event in events], delta)
    return {
        "epsilon_alone": format_epsilon(alone),
        "epsilon_in_two_hospitals": format_epsilon(two_hospitals_epsilon(events, delta)),
    }


def _loss(events: dict[str, list[PrivacyEvent]], delta: float) -> str:
    worst = max((pld_epsilon(found, delta) for found in events.values()), default=0.0)
    return (
        f"At most epsilon {format_epsilon(worst)} at delta {format_delta(delta)} for this model, at any "
        "hospital; over a hospital's lifetime: in its own ledger"
    )


def _mechanism(document: StudyDocument) -> str:
    if document.noise_multiplier is None:
        return "None: training without noise"
    released = document.evaluation_event is not None or document.table_one_event is not None
    if document.secure_sum is not None:
        return (
            f"{_contribution(document, 'round')}; their sum on an integer grid, a discrete "
            "Gaussian share of the noise from each hospital, a secure sum (Kairouz, Liu & Steinke 2021)"
        )
    of = ", of one member of each family," if document.by_family else ""
    counts = f"; released counts{of} carry discrete Gaussian noise" if released else ""
    return (
        f"DP-SGD: {_contribution(document, 'step', begin='one')}, Gaussian noise added by each hospital "
        f"to its own sums (Opacus){counts}"
    )


def _contribution(document: StudyDocument, of: str, *, begin: str = "One") -> str:
    if document.by_family:
        return f"{begin} contribution per family and {of}, the mean of its members' clipped ones"
    return f"{begin} clipped contribution per patient and {of}"


def _outside(document: StudyDocument, charges: list[Charge]) -> tuple[str, ...]:
    """Return the line that names what left hospitals without noise."""
    named = document.study.evaluation.named
    sites = sorted({charge.site for charge in charges if charge.kind == "evaluate"})
    if not named or not sites:
        return ()
    return (f"Released without noise, outside epsilon: {', '.join(named)} of {', '.join(sites)}",)


def _sampling(document: StudyDocument) -> str:
    training, rate = document.study.training, document.study.privacy.sampling_rate
    units = "families" if document.by_family else "patients"
    if document.secure_sum is not None:
        return f"None: all {units} in every round; {counted(training.rounds, 'round')} of one step"
    steps = training.rounds * training.local_steps
    return f"Poisson over {units} at rate {exact_decimal(rate)}, a public constant; {counted(steps, 'step')}"


def _accountant(events: dict[str, list[PrivacyEvent]], delta: float) -> str:
    order = filter_order(8.0, delta)
    if any(e.kind == "shared-gaussian" for found in events.values() for e in found):
        return (
            "Renyi DP (dp-accounting 0.6.0) at the best of 700 orders, of sums of discrete Gaussians with "
            "their slack, rounded up"
        )
    # The same events, as the unit pays for them.
    units = [[replace(event, patient_steps=None) for event in found] for found in events.values()]
    second = max((rdp_epsilon(found, delta, order=order) for found in units), default=0.0)
    return (
        f"PLD (dp-accounting 0.6.0, interval {PLD_INTERVAL:g}, pessimistic), rounded up; "
        f"by RDP at order {order} the same events read {format_epsilon(second)}"
    )


def _tuning(document: StudyDocument) -> str:
    tuning = document.study.tuning
    if tuning is None:
        return (
            "Choice of settings: not declared by the researcher: treat the settings as tuned on these patients, "
            "which epsilon does not cover"
        )
    if tuning.configurations_tried == 0:
        return "Choice of settings: none was tried on these patients, says the researcher"
    where = {
        "public": "public data",
        "mock": "made-up data",
        "same-patients": "the same patients, which epsilon does not cover",
    }[tuning.tried_on]
    return f"Choice of settings: {tuning.configurations_tried} configurations were tried on {where}"


def _reading(unit: str, *, off: bool) -> str:
    if off:
        return "No privacy promise: an update may reveal single patients."
    return (
        f"Whether or not one {unit} took part, anything anyone concludes from this training becomes at "
        "most e^epsilon times more likely, except with probability delta. Differential privacy does not "
        "protect against inferences that are true of the population."
    )
