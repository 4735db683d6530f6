"""A privacy event says what happened to the patients' data, not what it costs.

Like `DpEvent` in Google's dp-accounting: the record is kept for ever, the arithmetic may improve.
Numbers are decimal strings, so that the canonical JSON of an event never depends on a float's
spelling. An event that an accountant does not know costs infinity (fail towards privacy).
"""

import re
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any, Literal

from solblom_protocol.errors import IntegrityError

EventKind = Literal["poisson-gaussian", "no-privacy"]


@dataclass(frozen=True)
class PrivacyEvent:
    """`steps` sums over Poisson-sampled patients, each with Gaussian noise.

    Attributes:
        kind: `poisson-gaussian`, or `no-privacy` for training without noise (cost: infinity).
        sampling_rate: probability of each patient to be in a step, decimal string in (0, 1].
        noise_multiplier: standard deviation of the noise over the clipping norm, decimal string.
        steps: number of noisy sums released.
    """

    kind: EventKind
    sampling_rate: str
    noise_multiplier: str
    steps: int

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
        }:
            raise IntegrityError("SB-405", "A privacy event has unexpected members")
        event = cls(**value)
        event.check()
        return event

    def check(self) -> None:
        """Refuse an event whose numbers make no sense.

        Raises:
            IntegrityError: unknown kind, rate outside (0, 1], noise not above 0, steps below 1.
        """
        if self.kind not in ("poisson-gaussian", "no-privacy"):
            raise IntegrityError("SB-405", "A privacy event is of an unknown kind")
        rate, noise = _decimal(self.sampling_rate), _decimal(self.noise_multiplier)
        if not 0 < rate <= 1:
            raise IntegrityError("SB-405", "A privacy event has a sampling rate outside (0, 1]")
        if self.kind == "poisson-gaussian" and noise <= 0:
            raise IntegrityError("SB-405", "A privacy event has no noise")
        if type(self.steps) is not int or self.steps < 1:
            raise IntegrityError("SB-405", "A privacy event has no steps")


def exact_decimal(number: float) -> str:
    """Return a number's shortest exact spelling without an exponent, such as 0.1 or 0.0000001."""
    return format(Decimal(repr(number)), "f")


def _decimal(text: object) -> Decimal:
    # One spelling only: ASCII digits, with a fraction or without.
    if not isinstance(text, str) or not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,30})?", text):
        raise IntegrityError("SB-405", "A privacy event must carry plain decimal strings")
    return Decimal(text)
