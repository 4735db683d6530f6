"""A privacy event says what happened to the patients' data, not what it costs.

Like `DpEvent` in Google's dp-accounting: the record is kept for ever, the arithmetic may improve.
Numbers are decimal strings, so that the canonical JSON of an event never depends on a float's
spelling. An event that an accountant does not know costs infinity (fail towards privacy).
"""

import re
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any, Literal, get_args

from solblom_protocol.errors import IntegrityError

EventKind = Literal["poisson-gaussian", "discrete-gaussian", "no-privacy"]


@dataclass(frozen=True)
class PrivacyEvent:
    """`steps` noisy sums over some of a hospital's patients.

    Every patient has a place on the line from 0 to 1, which follows from a key of the hospital and
    the patient's own id (privacy.md rule 4). An event touches the patients of one part of the line:
    training those at or above the test fraction, evaluation those below it. A patient pays for the
    events that touch their place only (rule 6: the vault itself verifies that parts are disjoint).

    Attributes:
        kind: `poisson-gaussian` for DP-SGD, `discrete-gaussian` for counts, or `no-privacy` for
            training without noise (cost: infinity).
        sampling_rate: probability of each patient to be in a step, decimal string in (0, 1].
        noise_multiplier: standard deviation of the noise over the clipping norm, decimal string;
            for counts: over one patient in one cell.
        steps: number of noisy sums released; for counts: how many cells one patient is counted in.
        patients_from: where the part of the line begins, decimal string.
        patients_to: where it ends, not included, decimal string.
    """

    kind: EventKind
    sampling_rate: str
    noise_multiplier: str
    steps: int
    patients_from: str = "0"
    patients_to: str = "1"

    def to_json(self) -> dict[str, Any]:
        """Return the event as a JSON object with sorted meaning, for ledgers and receipts."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> "PrivacyEvent":
        """Read an event strictly.

        Raises:
            IntegrityError: a member is missing, extra or out of range.
        """
        if not isinstance(value, dict) or set(value) != {
            "kind",
            "sampling_rate",
            "noise_multiplier",
            "steps",
            "patients_from",
            "patients_to",
        }:
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
        if self.kind == "discrete-gaussian" and rate != 1:
            raise IntegrityError("SB-405", "A privacy event counts a sample of patients")
        if not 0 <= _decimal(self.patients_from) < _decimal(self.patients_to) <= 1:
            raise IntegrityError("SB-405", "A privacy event has an empty part of the patients")


def exact_decimal(number: float) -> str:
    """Return a number's shortest exact spelling without an exponent, such as 0.1 or 0.0000001."""
    return format(Decimal(repr(number)), "f")


def _decimal(text: object) -> Decimal:
    # One spelling only: ASCII digits, with a fraction or without.
    if not isinstance(text, str) or not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,30})?", text):
        raise IntegrityError("SB-405", "A privacy event must carry plain decimal strings")
    return Decimal(text)
