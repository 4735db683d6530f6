"""A privacy event says what happened to the patients' data, not what it costs.

Like `DpEvent` in Google's dp-accounting: the record is kept for ever, the arithmetic may improve.
Numbers are decimal strings, so that the canonical JSON of an event never depends on a float's
spelling. An event that an accountant does not know costs infinity (fail towards privacy).
"""

import re
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from typing import Any, Literal, get_args

from solblom_protocol.errors import IntegrityError

EventKind = Literal["poisson-gaussian", "discrete-gaussian", "shared-gaussian", "no-privacy"]
_MEMBERS = frozenset(
    (
        "kind",
        "sampling_rate",
        "noise_multiplier",
        "steps",
        "patients_from",
        "patients_to",
    )
)
_SHARED_MEMBERS = frozenset(("alone_noise_multiplier", "slack"))
_FAMILY_MEMBERS = frozenset(("patient_steps",))


@dataclass(frozen=True)
class PrivacyEvent:
    """`steps` noisy sums over some of a hospital's patients.

    Every patient has a place on the line from 0 to 1, which follows from a key of the hospital and
    the patient's own id (privacy.md rule 4). An event touches the patients of one part of the line:
    training those at or above the test fraction, evaluation those below it. A patient pays for the
    events that touch their place only (rule 6: the vault itself verifies that parts are disjoint).

    Attributes:
        kind: `poisson-gaussian` for DP-SGD, `discrete-gaussian` for counts, `shared-gaussian` for
            what leaves inside a secure sum to which each node adds a share of the noise, or
            `no-privacy` for training without noise (cost: infinity).
        sampling_rate: probability of each patient to be in a step, decimal string in (0, 1].
        noise_multiplier: standard deviation of the noise over the clipping norm, decimal string;
            for counts: over one patient in one cell; for shared noise: of all honest nodes'
            shares together, over the sensitivity on the grid.
        steps: number of noisy sums released; for counts: how many cells one patient is counted in.
        patients_from: where the part of the line begins, decimal string.
        patients_to: where it ends, not included, decimal string.
        alone_noise_multiplier: shared noise only: of this node's own share.
        slack: shared noise only: what a sum of shares lacks of one discrete Gaussian, decimal
            string; added to the root of twice the concentrated loss (Kairouz, Liu & Steinke 2021).
        patient_steps: only where the unit is a family, for which `steps` are: how many such steps bound
            what the event does to one patient whose family stays (docs/adr/0021). None: the unit is the patient.
    """

    kind: EventKind
    sampling_rate: str
    noise_multiplier: str
    steps: int
    patients_from: str = "0"
    patients_to: str = "1"
    alone_noise_multiplier: str | None = None
    slack: str | None = None
    patient_steps: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the event as a JSON object with sorted meaning, for ledgers and receipts."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def times(self, count: int) -> "PrivacyEvent":
        """Return the event happening `count` times, as one event."""
        paid = None if self.patient_steps is None else count * self.patient_steps
        return replace(self, steps=count * self.steps, patient_steps=paid)

    def for_one_patient(self) -> "PrivacyEvent":
        """Return what bounds the event for one patient: the event itself unless its unit is a family."""
        if self.patient_steps is None:
            return self
        return replace(self, steps=self.patient_steps, patient_steps=None)

    def alone(self) -> "PrivacyEvent":
        """Return what holds if every other node of a secure sum works against this one; else the event itself."""
        if self.alone_noise_multiplier is None:
            return self
        return replace(self, noise_multiplier=self.alone_noise_multiplier, slack="0")

    def in_two_hospitals(self) -> "PrivacyEvent":
        """Return what an opened sum does to a patient of two of its hospitals: the sensitivity doubles."""
        if self.alone_noise_multiplier is None:
            return self
        return replace(
            self,
            noise_multiplier=_half(self.noise_multiplier),
            alone_noise_multiplier=_half(self.alone_noise_multiplier),
        )

    @classmethod
    def from_json(cls, value: Any) -> "PrivacyEvent":
        """Read an event strictly.

        Raises:
            IntegrityError: a member is missing, extra or out of range.
        """
        is_shared = isinstance(value, dict) and value.get("kind") == "shared-gaussian"
        members = _MEMBERS | _SHARED_MEMBERS if is_shared else _MEMBERS
        if not isinstance(value, dict) or set(value) - _FAMILY_MEMBERS != members:
            raise IntegrityError("SB-405", "A privacy event has unexpected members")
        if value.get("patient_steps", 0) is None:  # one spelling only: left out
            raise IntegrityError("SB-405", "A privacy event has unexpected members")
        event = cls(**value)
        event.check()
        return event

    def check(self) -> None:
        """Refuse an event whose numbers make no sense.

        Raises:
            IntegrityError: unknown kind, rate outside (0, 1], noise not above 0, steps below 1, or
                an empty part of the patients.
        """
        if self.kind not in get_args(EventKind):
            raise IntegrityError("SB-405", "A privacy event is of an unknown kind")
        rate, noise = _decimal(self.sampling_rate), _decimal(self.noise_multiplier)
        if not 0 < rate <= 1:
            raise IntegrityError("SB-405", "A privacy event has a sampling rate outside (0, 1]")
        if self.kind != "no-privacy" and noise <= 0:
            raise IntegrityError("SB-405", "A privacy event has no noise")
        if type(self.steps) is not int or self.steps < 1:
            raise IntegrityError("SB-405", "A privacy event has no steps")
        paid = self.patient_steps
        if paid is not None and (type(paid) is not int or not self.steps <= paid <= 2 * self.steps):
            raise IntegrityError(
                "SB-405", "A privacy event charges a patient fewer steps than a family"
            )
        if self.kind in ("discrete-gaussian", "shared-gaussian") and rate != 1:
            raise IntegrityError("SB-405", "A privacy event counts a sample of patients")
        self._check_shared(noise)
        if not 0 <= _decimal(self.patients_from) < _decimal(self.patients_to) <= 1:
            raise IntegrityError("SB-405", "A privacy event has an empty part of the patients")

    def _check_shared(self, noise: Decimal) -> None:
        """Refuse a share without a sum, and a sum without its share.

        Raises:
            IntegrityError: SB-405.
        """
        shared = self.kind == "shared-gaussian"
        if shared != (self.alone_noise_multiplier is not None) or shared != (
            self.slack is not None
        ):
            raise IntegrityError("SB-405", "A privacy event has a noise share without a secure sum")
        if shared and not 0 < _decimal(self.alone_noise_multiplier) <= noise:
            raise IntegrityError("SB-405", "A node's share is more noise than all shares together")
        if shared:
            _decimal(self.slack)


def exact_decimal(number: float) -> str:
    """Return a number's shortest exact spelling without an exponent, such as 0.1 or 0.0000001."""
    return format(Decimal(repr(number)), "f")


def _half(noise: str) -> str:
    return format(Decimal(noise) / 2, "f")


def _decimal(text: object) -> Decimal:
    # One spelling only: ASCII digits, with a fraction or without.
    if not isinstance(text, str) or not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,30})?", text):
        raise IntegrityError("SB-405", "A privacy event must carry plain decimal strings")
    return Decimal(text)
