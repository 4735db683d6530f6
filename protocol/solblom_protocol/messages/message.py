"""What order and reply share: strict models, times, and the frame that carries a signed header beside its array."""

import datetime as dt
import re
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from solblom_protocol.errors import IntegrityError
from solblom_verify.canonical import canonical_json, parse_canonical

Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
KeyId = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
SiteName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
RunId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,94}$")]
RoundNumber = Annotated[int, Field(ge=1, le=10_000)]
# [0-9], not \d: in these patterns \d is a digit of any script, and a value has one spelling only.
_TIME = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$"
_TIME_SHAPE = re.compile(_TIME.strip("^$"))
Timestamp = Annotated[str, Field(pattern=_TIME)]

CLOCK_TOLERANCE = dt.timedelta(minutes=5)  # between the clocks of two machines
MAX_ENVELOPE_BYTES = 16 * 1024**2

Model = TypeVar("Model", bound="Message")


class Message(BaseModel):
    """A signed header: frozen, no unknown members, canonical JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    def payload(self) -> bytes:
        """Return the canonical JSON that is signed."""
        return canonical_json(self.model_dump(mode="json", by_alias=True))


def parse_message(model: type[Model], payload: bytes) -> Model:
    """Return the message in a payload whose signature was checked.

    Raises:
        IntegrityError: SB-405, not canonical, or members missing, extra or out of range.
    """
    try:
        # Through JSON, so that strict models read lists as tuples and nothing else is converted.
        parse_canonical(payload)
        return model.model_validate_json(payload)
    except (ValidationError, ValueError):
        raise IntegrityError("SB-405", f"The payload is not a {model.__name__}") from None


def parse_exact(model: type[Model], payload: bytes) -> Model:
    """Return the message whose payload is these very bytes: nothing is left out that has a default.

    Raises:
        IntegrityError: SB-405, not canonical, another spelling, or members missing, extra or out of range.
    """
    try:
        message = model.model_validate_json(payload)
        exact = message.payload() == payload  # what is written is canonical
    except (ValidationError, ValueError):
        raise IntegrityError("SB-405", f"The payload is not a {model.__name__}") from None
    if not exact:
        raise IntegrityError("SB-405", f"The {model.__name__} has another spelling than its own")
    return message


def timestamp(moment: dt.datetime) -> str:
    """Return RFC 3339 UTC with whole seconds."""
    return moment.astimezone(dt.UTC).replace(microsecond=0, tzinfo=None).isoformat() + "Z"


def parse_timestamp(text: str) -> dt.datetime:
    """Return the moment of an RFC 3339 UTC text.

    Raises:
        IntegrityError: SB-405, not a moment.
    """
    try:
        if not _TIME_SHAPE.fullmatch(text):  # fromisoformat takes other spellings, too
            raise ValueError("another spelling")
        return dt.datetime.fromisoformat(text)
    except ValueError:
        raise IntegrityError("SB-405", "A time is not RFC 3339 UTC") from None


def frame(envelope: bytes, array: bytes) -> bytes:
    """Return `length ‖ envelope ‖ array` as one byte string, ready to be sealed."""
    return len(envelope).to_bytes(4, "big") + envelope + array


def unframe(message: bytes) -> tuple[bytes, memoryview]:
    """Return envelope and array of a framed message; the array is not copied.

    Raises:
        IntegrityError: SB-405, cut or too large.
    """
    length = int.from_bytes(message[:4], "big")
    if len(message) < 4 or length > MAX_ENVELOPE_BYTES or len(message) < 4 + length:
        raise IntegrityError("SB-405", "The message is cut or too large")
    return message[4 : 4 + length], memoryview(message)[4 + length :]


def as_json(model: BaseModel) -> Any:
    """Return a model as plain JSON values."""
    return model.model_dump(mode="json", by_alias=True)
