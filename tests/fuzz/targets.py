"""Every parser that meets bytes from outside, and well-formed examples to begin with.

A target takes bytes and may raise what its parser documents, nothing else. Where a message is signed, the target signs
whatever it is given with the right key: a hostile sender may well have one.
"""

import json
import tempfile
from functools import cache
from pathlib import Path

import tomli_w
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fuzz.bundles import BUNDLES
from fuzz.predictions import PREDICTIONS
from fuzz.sources import SOURCES
from fuzz.target import Target, file_in
from fuzz.verifier import VERIFIER
from lab import NOW, LabHospital, study_document
from solblom_client.checks.finding import Finding, Light
from solblom_client.checks.traffic_light import read_traffic_light, write_traffic_light
from solblom_protocol.errors import SolblomError
from solblom_protocol.keys.public_keys import PublicKeys, read_fingerprints
from solblom_protocol.logs.transparency import Head, read_checkpoint, sign_note, write_checkpoint
from solblom_protocol.messages.enrolment import open_answer, open_invite, write_answer, write_invite
from solblom_protocol.messages.mailbox import list_mail, read_mail
from solblom_protocol.messages.message import frame
from solblom_protocol.messages.order import ORDER_PAYLOAD_TYPE, read_order, seal_order
from solblom_protocol.messages.result import (
    RECEIPT_PAYLOAD_TYPE,
    REFUSAL_PAYLOAD_TYPE,
    Refusal,
    read_reply,
    write_refusal,
    write_result,
)
from solblom_protocol.messages.seal import lock, seal
from solblom_protocol.messages.signing import sign_envelope
from solblom_protocol.messages.withdrawal_notice import (
    NOTICE_PAYLOAD_TYPE,
    NoticedRun,
    WithdrawalNotice,
    read_notice,
    write_notice,
)
from solblom_protocol.permits.issuer import Issuer
from solblom_protocol.permits.jws import sign_token
from solblom_protocol.permits.permit import PERMIT_TYPE, open_permit
from solblom_protocol.permits.revocations import REVOCATIONS_TYPE, open_revocations
from solblom_protocol.studies.study import STUDY_PAYLOAD_TYPE, load_study, open_study
from solblom_protocol.sums.secure_sum import Roster, read_roster, write_roster
from solblom_verify.envelope import key_id
from unit.protocol import samples

JTI = "00000000-0000-4000-8000-000000000000"


def _sealed_order(data: bytes, folder: Path) -> object:
    key, coordinator = samples.NODE_SEALING, samples.COORDINATOR.public_key()
    return read_order(data, key=key, coordinator=coordinator)


@cache
def _order_seeds() -> tuple[bytes, ...]:
    payload = samples.order_header().payload()
    return tuple(_signed_order(payload, lock_array) for lock_array in (samples.ARRAY, b""))


def _signed_order(payload: bytes, array: bytes) -> bytes:
    envelope = sign_envelope(payload, ORDER_PAYLOAD_TYPE, [samples.COORDINATOR])
    return seal_order(envelope, lock(array), recipient=samples.NODE_SEALING.public_key()).sealed


def _opened_order(data: bytes, folder: Path) -> object:
    if not data:
        return None
    return _sealed_order(_signed_order(data, samples.ARRAY), folder)


def _framed_order(data: bytes, folder: Path) -> object:
    """Read what lies inside the seal: an envelope and a key, framed."""
    sealed = seal(data, kind="order", recipient=samples.NODE_SEALING.public_key(), body=b"body")
    return _sealed_order(sealed, folder)


def _frame_seeds() -> tuple[bytes, ...]:
    payload = samples.order_header().payload()
    envelope = sign_envelope(payload, ORDER_PAYLOAD_TYPE, [samples.COORDINATOR])
    return (frame(envelope, bytes(32)), envelope)


def _vault(data: bytes, folder: Path) -> object:
    """Ask a real vault: its answer is a refusal that the coordinator can read, whatever was sent."""
    hospital = _hospital()
    return hospital.ask(data)


@cache
def _hospital() -> LabHospital:
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    hospital = LabHospital(folder)
    hospital.approve(study_document())
    return hospital


@cache
def _vault_seeds() -> tuple[bytes, ...]:
    document = study_document()
    return (_hospital().order(document), _hospital().description(document))


def _reply(data: bytes, folder: Path) -> object:
    key, node = samples.COORDINATOR_SEALING, samples.NODE.public_key()
    return read_reply(data, key=key, node=node)


@cache
def _reply_seeds() -> tuple[bytes, ...]:
    key, recipient = samples.NODE, samples.COORDINATOR_SEALING.public_key()
    result = write_result(samples.receipt(), samples.ARRAY, key=key, recipient=recipient)[0]
    return (result, write_refusal(_refusal(), key=key, recipient=recipient))


def _refusal() -> Refusal:
    return Refusal(
        schema="solblom.refusal/1", site="north", node=samples.NODE_ID, order=None, code="SB-214"
    )


def _opened_reply(data: bytes, folder: Path) -> object:
    """Read a receipt or refusal that the node has signed, whatever it says."""
    if not data:
        return None
    kinds = (RECEIPT_PAYLOAD_TYPE, REFUSAL_PAYLOAD_TYPE)
    recipient = samples.COORDINATOR_SEALING.public_key()
    for kind in kinds:
        envelope = sign_envelope(data, kind, [samples.NODE])
        try:
            _reply(seal(frame(envelope, samples.ARRAY), kind="reply", recipient=recipient), folder)
        except SolblomError:
            continue
    return None


def _opened_reply_seeds() -> tuple[bytes, ...]:
    return (samples.receipt().payload(), _refusal().payload())


def _study_file(data: bytes, folder: Path) -> object:
    samples.write_study(folder)
    return load_study(file_in(folder, "study.toml", data))


@cache
def _study_seeds() -> tuple[bytes, ...]:
    whole = samples.study_tables(
        evaluation={"releases": 1, "bins": 10, "split": {"by": "patient", "test_fraction": 0.3}},
        table_one={"variables": ["age"], "epsilon": 0.1},
    )
    return (tomli_w.dumps(samples.study_tables()).encode(), tomli_w.dumps(whole).encode())


SIGNERS = {key_id(samples.COORDINATOR.public_key()): samples.COORDINATOR.public_key()}


def _signed_study(data: bytes, folder: Path) -> object:
    return open_study(data, SIGNERS)


@cache
def _signed_study_seeds() -> tuple[bytes, ...]:
    payload = study_document().payload()
    return (sign_envelope(payload, STUDY_PAYLOAD_TYPE, [samples.COORDINATOR]),)


def _study_payload(data: bytes, folder: Path) -> object:
    if not data:
        return None
    return open_study(sign_envelope(data, STUDY_PAYLOAD_TYPE, [samples.COORDINATOR]), SIGNERS)


def _study_payload_seeds() -> tuple[bytes, ...]:
    return (study_document().payload(),)


def _public_keys(data: bytes, folder: Path) -> object:
    path = file_in(folder, "someone.pub", data)
    for read in (PublicKeys.read, read_fingerprints, Issuer.read):
        try:
            read(path)
        except SolblomError:
            continue
    return None


@cache
def _key_seeds() -> tuple[bytes, ...]:
    keys = PublicKeys("north", samples.NODE.public_key(), samples.NODE_SEALING.public_key())
    pem = json.loads(keys.to_bytes())["signing_key"].encode()
    return (keys.to_bytes(), pem, _issuer().to_bytes())


def _mail_names(data: bytes, folder: Path) -> object:
    """List a folder whose files have these names, and read what looks like mail."""
    for name in data.split(b"\n")[:20]:
        clean = name.replace(b"/", b"_").replace(b"\x00", b"")[:200]
        if clean not in (b"", b".", b".."):
            Path(folder, clean.decode("utf-8", "surrogateescape")).write_bytes(name)
    for file in list_mail(folder).mail:
        read_mail(file)
    return None


def _mail_seeds() -> tuple[bytes, ...]:
    name = b"0" * 64
    return (name + b".order\n" + name + b"." + name + b".reply", b"." + name + b".order.partial")


@cache
def _issuer() -> Issuer:
    return Issuer.of("https://dac.invalid", samples.STRANGER.public_key())


def _permit(data: bytes, folder: Path) -> object:
    return open_permit(data, {_issuer().key_id: _issuer()})


def _permit_claims(data: bytes, folder: Path) -> object:
    return _permit(sign_token(data, kind=PERMIT_TYPE, key=samples.STRANGER), folder)


def _claims() -> tuple[bytes, ...]:
    from solblom_protocol.permits.issuing import Terms, permit_for

    terms = Terms(sites=("north",), days=30, rounds=10, duo=("DUO:0000042",))
    document = study_document()
    permit = permit_for(document, terms, issuer="https://dac.invalid", jti=JTI, now=1_700_000_000)
    claims = permit.model_dump(mode="json", by_alias=True, exclude_none=True)
    return (json.dumps(claims).encode(),)


@cache
def _permit_seeds() -> tuple[bytes, ...]:
    return tuple(sign_token(c, kind=PERMIT_TYPE, key=samples.STRANGER) for c in _claims())


def _revocations(data: bytes, folder: Path) -> object:
    return open_revocations(data, {_issuer().key_id: _issuer()})


def _revocation_claims(data: bytes, folder: Path) -> object:
    return _revocations(sign_token(data, kind=REVOCATIONS_TYPE, key=samples.STRANGER), folder)


def _revocation_seeds() -> tuple[bytes, ...]:
    claims = {"v": 1, "iss": "https://dac.invalid", "iat": 1_700_000_000, "revoked": [JTI]}
    return (json.dumps(claims).encode(),)


def _revocation_tokens() -> tuple[bytes, ...]:
    key = samples.STRANGER
    return tuple(sign_token(c, kind=REVOCATIONS_TYPE, key=key) for c in _revocation_seeds())


def _roster(data: bytes, folder: Path) -> object:
    return read_roster(file_in(folder, "roster.json", data))


@cache
def _roster_seeds() -> tuple[bytes, ...]:
    nodes = [
        PublicKeys(f"s{n}", samples.signing_key(n).public_key(), samples.NODE_SEALING.public_key())
        for n in range(11, 14)
    ]
    return (write_roster(Roster.of(nodes)),)


NOTE_KEY, LOG = samples.signing_key(21), "log.invalid/1"


def _checkpoint(data: bytes, folder: Path) -> object:
    """Read a log's signed head as it comes from a file."""
    try:
        note = data.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return read_checkpoint(note, LOG, NOTE_KEY.public_key())


def _checkpoint_text(data: bytes, folder: Path) -> object:
    """Read a note that the log has signed, whatever it says."""
    try:
        note = sign_note(data.decode("utf-8"), LOG, NOTE_KEY)
    except ValueError:  # no note that anybody can sign
        return None
    return read_checkpoint(note, LOG, NOTE_KEY.public_key())


def _checkpoint_seeds() -> tuple[bytes, ...]:
    return (write_checkpoint(LOG, Head(7, bytes(32)), NOTE_KEY).encode(),)


def _checkpoint_texts() -> tuple[bytes, ...]:
    return (_checkpoint_seeds()[0].rpartition(b"\n\n")[0] + b"\n",)


def _notice(data: bytes, folder: Path) -> object:
    key, node = samples.COORDINATOR_SEALING, samples.NODE.public_key()
    return read_notice(data, key=key, node=node)


def _notice_payload(data: bytes, folder: Path) -> object:
    if not data:
        return None
    envelope = sign_envelope(data, NOTICE_PAYLOAD_TYPE, [samples.NODE])
    recipient = samples.COORDINATOR_SEALING.public_key()
    return _notice(seal(frame(envelope, b""), kind="reply", recipient=recipient), folder)


def _withdrawals() -> WithdrawalNotice:
    run = NoticedRun(study="sha256:" + "0" * 64, run="lab-1", affected=1)
    return WithdrawalNotice(
        schema="solblom.withdrawal-notice/1",
        site="north",
        node=samples.NODE_ID,
        issued="2026-11-29T00:00:00Z",
        runs=[run],
        padding="  ",
    )


@cache
def _notice_seeds() -> tuple[bytes, ...]:
    recipient = samples.COORDINATOR_SEALING.public_key()
    return (write_notice(_withdrawals(), key=samples.NODE, recipient=recipient),)


def _invitation(data: bytes, folder: Path) -> object:
    """Read an invitation as a hospital does, and an answer as an operator does."""
    for read in (lambda: open_invite(data, now=NOW), lambda: open_answer(data, _invite(), now=NOW)):
        try:
            read()
        except SolblomError:
            continue
    return None


@cache
def _invite() -> bytes:
    coordinator = PublicKeys(
        "coordinator", samples.COORDINATOR.public_key(), samples.COORDINATOR_SEALING.public_key()
    )
    return write_invite("north", coordinator, samples.COORDINATOR, now=NOW, days=7)


@cache
def _invitation_seeds() -> tuple[bytes, ...]:
    node = PublicKeys("north", samples.NODE.public_key(), samples.NODE_SEALING.public_key())
    transport = ec.generate_private_key(ec.SECP384R1()).public_key()
    pem = transport.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    opened = open_invite(_invite(), now=NOW)
    return (_invite(), write_answer(opened, node, samples.NODE, transport_key=pem, now=NOW))


def _light_seeds() -> tuple[bytes, ...]:
    found = [Finding("keys", Light.OK, ""), Finding("data sets", Light.STOP, "")]
    return (write_traffic_light(found, site="north", study=None, key=samples.NODE, now=NOW),)


def _lights(data: bytes, folder: Path) -> object:
    return read_traffic_light(data, samples.NODE.public_key())


TARGETS = (
    *SOURCES,
    Target("sealed-order", _sealed_order, _order_seeds),
    Target("framed-order", _framed_order, _frame_seeds),
    Target("opened-order", _opened_order, lambda: (samples.order_header().payload(),)),
    Target("vault", _vault, _vault_seeds),
    Target("reply", _reply, _reply_seeds),
    Target("opened-reply", _opened_reply, _opened_reply_seeds),
    Target("study-toml", _study_file, _study_seeds),
    Target("signed-study", _signed_study, _signed_study_seeds),
    Target("study-payload", _study_payload, _study_payload_seeds),
    Target("public-keys", _public_keys, _key_seeds),
    Target("mail-names", _mail_names, _mail_seeds),
    Target("permit", _permit, _permit_seeds),
    Target("permit-claims", _permit_claims, _claims),
    Target("revocations", _revocations, _revocation_tokens),
    Target("revocation-claims", _revocation_claims, _revocation_seeds),
    Target("roster", _roster, _roster_seeds),
    Target("checkpoint", _checkpoint, _checkpoint_seeds),
    Target("checkpoint-text", _checkpoint_text, _checkpoint_texts),
    Target("withdrawal-notice", _notice, _notice_seeds),
    Target("withdrawal-payload", _notice_payload, lambda: (_withdrawals().payload(),)),
    Target("invitation", _invitation, _invitation_seeds),
    Target("traffic-light", _lights, _light_seeds),
    *VERIFIER,
    *PREDICTIONS,
    *BUNDLES,
)
