"""What a hospital may send of a check: one light for each name of a fixed list, signed by the node. Nothing else.

No number, no variable, no code, no patient count. The names are the same whatever the data are; a hospital sends
the file or does not.
"""

import datetime as dt
from collections.abc import Sequence
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import Field

from solblom_client.checks.finding import Finding, Light, worst
from solblom_protocol.errors import IntegrityError
from solblom_protocol.messages.message import Digest, KeyId, Message, SiteName, parse_message
from solblom_protocol.messages.signing import sign_envelope
from solblom_verify.envelope import EnvelopeError, key_id, open_envelope

TRAFFIC_LIGHT_PAYLOAD_TYPE = "application/vnd.solblom.traffic-light+json"
LightName = Literal["ok", "attention", "stop"]


class CheckLight(Message):
    """One check and its light."""

    name: str = Field(pattern=r"^[a-z.' ]{1,40}$")  # no digit: a name can carry no number
    light: LightName


class TrafficLight(Message):
    """All checks of one look, for outside."""

    schema_: Literal["solblom.traffic-light/1"] = Field(alias="schema")
    site: SiteName
    node: KeyId
    study: Digest | None
    day: str = Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")
    light: LightName
    checks: tuple[CheckLight, ...]


def write_traffic_light(
    findings: Sequence[Finding],
    *,
    site: str,
    study: str | None,
    key: Ed25519PrivateKey,
    now: dt.datetime,
) -> bytes:
    """Return the lights of these checks as a DSSE envelope signed by the node."""
    lights = TrafficLight(
        schema="solblom.traffic-light/1",
        site=site,
        node=key_id(key.public_key()),
        study=study,
        day=now.astimezone(dt.UTC).date().isoformat(),
        light=_word(worst(findings)),
        checks=tuple(CheckLight(name=f.name, light=_word(f.light)) for f in findings),
    )
    return sign_envelope(lights.payload(), TRAFFIC_LIGHT_PAYLOAD_TYPE, [key])


def read_traffic_light(data: bytes, node: Ed25519PublicKey) -> TrafficLight:
    """Return the lights that a node has signed.

    Raises:
        IntegrityError: SB-405.
    """
    try:
        opened = open_envelope(
            data, payload_type=TRAFFIC_LIGHT_PAYLOAD_TYPE, keys={key_id(node): node}
        )
    except EnvelopeError as error:
        raise IntegrityError("SB-405", f"The signature does not hold: {error}") from None
    return parse_message(TrafficLight, opened.payload)


def _word(light: Light) -> LightName:
    words: dict[Light, LightName] = {
        Light.OK: "ok",
        Light.ATTENTION: "attention",
        Light.STOP: "stop",
    }
    return words[light]
