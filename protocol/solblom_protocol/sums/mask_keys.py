"""The mask keys of a run: each hospital makes one, signs it with its node key, and the orders carry all to all.

Who may sign stands in the roster that the hospital approved; the coordinator only repeats what others
signed. It can leave a key out or send an old one, and the sum stays closed; it cannot put its own in
between (privacy.md rule 8; Flower's SecAgg+ relays unsigned keys).
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Annotated, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import Field

from solblom_protocol.errors import IntegrityError, RefusedError
from solblom_protocol.messages.message import Digest, KeyId, Message, RunId, SiteName, parse_message
from solblom_protocol.messages.signing import sign_envelope
from solblom_protocol.sums.secure_sum import Roster
from solblom_verify.envelope import EnvelopeError, key_id, open_envelope

MASK_KEY_PAYLOAD_TYPE = "application/vnd.solblom.mask-key+json"


class MaskKey(Message):
    """What a node signs: this is my mask key for this run, among these hospitals.

    `order` is the order that asked for it, so that an old answer is no answer.
    """

    schema_: Literal["solblom.mask-key/1"] = Field(alias="schema")
    site: SiteName
    node: KeyId
    study: Digest
    run: RunId
    roster: Digest
    order: Digest
    mask_key: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

    @property
    def key(self) -> X25519PublicKey:
        """The X25519 public key."""
        return X25519PublicKey.from_public_bytes(bytes.fromhex(self.mask_key))


def mask_key_text(public: X25519PublicKey) -> str:
    """Return a mask key's spelling."""
    return public.public_bytes(Encoding.Raw, PublicFormat.Raw).hex()


def sign_mask_key(message: MaskKey, key: Ed25519PrivateKey) -> bytes:
    """Return the signed envelope."""
    return sign_envelope(message.payload(), MASK_KEY_PAYLOAD_TYPE, [key])


def open_mask_keys(
    envelopes: Sequence[str], roster: Roster, *, run: str, study: str
) -> Mapping[str, X25519PublicKey]:
    """Return every hospital's mask key, by site, as its own node signed it for this run.

    Raises:
        RefusedError: SB-216, a hospital of the roster is missing, a key is not signed by its node, or
            was made for another run or roster; names the hospital.
    """
    return _opened(tuple(envelopes), roster, run, study)


@lru_cache(
    maxsize=8
)  # the same keys in every round of a run; the answer follows from the arguments alone
def _opened(
    envelopes: tuple[str, ...], roster: Roster, run: str, study: str
) -> Mapping[str, X25519PublicKey]:
    keys = roster.keys
    if len(envelopes) != len(keys):
        raise RefusedError(
            "SB-216",
            f"The order carries {len(envelopes)} mask keys; the approved roster has {len(keys)} hospitals",
        )
    found: dict[str, X25519PublicKey] = {}
    for (site, signer), text in zip(keys.items(), envelopes, strict=True):
        try:
            opened = open_envelope(
                text.encode(), payload_type=MASK_KEY_PAYLOAD_TYPE, keys={key_id(signer): signer}
            )
            message = parse_message(MaskKey, opened.payload)
        except (EnvelopeError, IntegrityError):
            raise RefusedError(
                "SB-216", f"The mask key of {site} is not signed by the node of the approved roster"
            ) from None
        if message.site != site or message.node != key_id(signer):
            raise RefusedError("SB-216", f"The mask key of {site} names another hospital")
        if (message.run, message.study, message.roster) != (run, study, roster.digest):
            raise RefusedError("SB-216", f"The mask key of {site} is for another run or roster")
        found[site] = message.key
    return MappingProxyType(found)
