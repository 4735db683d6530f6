"""Claims about cosignatures: C2SP cosignature/v1, byte for byte, and one spelling of a cosigned checkpoint."""

import base64
import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from solblom_protocol.errors import IntegrityError
from solblom_protocol.logs.cosignature import (
    cosign,
    join_cosignatures,
    read_cosignature,
    read_cosigned,
)
from solblom_protocol.logs.transparency import (
    head_of,
    key_hash,
    read_checkpoint,
    sign_note,
    write_checkpoint,
    write_signature,
)

LOG = Ed25519PrivateKey.from_private_bytes(b"L" * 32)
KEYS = {
    name: Ed25519PrivateKey.from_private_bytes(name.encode() * 16) for name in ("aa", "bb", "cc")
}
WITNESSES: dict[str, Ed25519PublicKey] = {name: key.public_key() for name, key in KEYS.items()}
ORIGIN, TIME = "solblom/0123456789abcdef", 1795953600
HEAD = head_of([b"one", b"two"])
NOTE = write_checkpoint(ORIGIN, HEAD, LOG)
LINES = {name: cosign(NOTE, name, key, time=TIME) for name, key in KEYS.items()}


def refused(note: str, witnesses: dict[str, Ed25519PublicKey] | None = None) -> bool:
    with pytest.raises(IntegrityError) as caught:
        read_cosigned(note, ORIGIN, LOG.public_key(), WITNESSES if witnesses is None else witnesses)
    return caught.value.code == "SB-405"


def test_a_cosignature_is_that_of_the_c2sp_text_by_its_definition() -> None:
    """Computed here from the text of C2SP tlog-cosignature, without the code that is tested."""
    dash, name, encoded = LINES["aa"].split(" ")
    data = base64.b64decode(encoded)
    raw = WITNESSES["aa"].public_bytes(Encoding.Raw, PublicFormat.Raw)
    assert (dash, name, len(data)) == ("\u2014", "aa", 4 + 8 + 64)
    assert data[:4] == hashlib.sha256(b"aa\n\x04" + raw).digest()[:4]
    assert int.from_bytes(data[4:12], "big") == TIME
    body = NOTE.partition("\n\n")[0] + "\n"
    WITNESSES["aa"].verify(data[12:], f"cosignature/v1\ntime {TIME}\n{body}".encode())


def test_a_checkpoint_with_all_its_lines_is_read() -> None:
    note = join_cosignatures(NOTE, reversed(LINES.values()))
    found = read_cosigned(note, ORIGIN, LOG.public_key(), WITNESSES)
    assert found.head == HEAD
    assert {name: c.time for name, c in found.cosignatures.items()} == dict.fromkeys(KEYS, TIME)
    assert read_cosigned(NOTE, ORIGIN, LOG.public_key(), {}).cosignatures == {}


def test_a_line_of_a_stranger_is_refused() -> None:
    note = join_cosignatures(NOTE, LINES.values())
    assert refused(note, {name: key for name, key in WITNESSES.items() if name != "bb"})


@pytest.mark.parametrize(
    "lines",
    [
        [LINES["bb"], LINES["aa"]],
        [LINES["aa"], LINES["aa"]],
        [LINES["aa"], cosign(NOTE, "aa", KEYS["aa"], time=TIME + 1)],
        [cosign(NOTE, "aa", KEYS["bb"], time=TIME)],
        [cosign(write_checkpoint(ORIGIN, head_of([b"one"]), LOG), "aa", KEYS["aa"], time=TIME)],
        [
            sign_note(NOTE.partition("\n\n")[0] + "\n", "aa", KEYS["aa"])
            .rstrip("\n")
            .split("\n")[-1]
        ],
        [NOTE.rstrip("\n").split("\n")[-1]],
        [LINES["aa"] + " "],
        [LINES["aa"], ""],
        ["no line"],
    ],
    ids=[
        "order",
        "twice",
        "twice at two times",
        "another's key",
        "another head",
        "plain signature",
        "the log's line again",
        "space",
        "empty line",
        "no line",
    ],
)
def test_another_spelling_is_refused(lines: list[str]) -> None:
    assert refused(NOTE + "".join(f"{line}\n" for line in lines))


def test_cosignatures_above_the_logs_own_line_are_refused() -> None:
    body, _, own = NOTE.partition("\n\n")
    assert refused(f"{body}\n\n{LINES['aa']}\n{own}")


@pytest.mark.parametrize("change", ["\r\n", "\u2028", "\x0b", "\x85"])
def test_other_line_ends_are_refused(change: str) -> None:
    note = join_cosignatures(NOTE, LINES.values())
    head, _, last = note.rstrip("\n").rpartition("\n")
    assert refused(head + change + last + "\n")


def test_a_checkpoint_that_says_more_is_refused() -> None:
    body = NOTE.partition("\n\n")[0]
    assert refused(sign_note(body + "\nextension\n", ORIGIN, LOG))


@pytest.mark.parametrize("sign", ["\u2028", "\x85", "\x0b"])
def test_only_a_line_feed_ends_a_line(sign: str) -> None:
    """A head that is read otherwise than by those who read lines as the standard says would be cosigned unseen."""
    other = base64.b64encode(b"B" * 32).decode()
    body = f"{ORIGIN}{sign}5{sign}{other}\n{HEAD.size}\n{other}\n"
    signature = write_signature(
        ORIGIN, key_hash(ORIGIN, LOG.public_key()) + LOG.sign(body.encode())
    )
    with pytest.raises(IntegrityError):
        read_checkpoint(f"{body}\n{signature}\n", ORIGIN, LOG.public_key())


def test_every_changed_bit_of_a_cosignature_is_found() -> None:
    data = bytearray(base64.b64decode(LINES["aa"].split(" ")[2]))
    for bit in range(8 * len(data)):
        data[bit // 8] ^= 1 << bit % 8
        line = f"\u2014 aa {base64.b64encode(bytes(data)).decode()}"
        with pytest.raises(IntegrityError):
            read_cosignature(NOTE, line, "aa", WITNESSES["aa"])
        data[bit // 8] ^= 1 << bit % 8


@pytest.mark.parametrize("name", ["", "two words", "a+b", "a\nb"])
def test_a_name_that_cannot_stand_in_a_note_signs_nothing(name: str) -> None:
    with pytest.raises(ValueError, match="one word"):
        cosign(NOTE, name, KEYS["aa"], time=TIME)


@pytest.mark.parametrize("time", [0, -1, 2**40])
def test_no_moment_signs_nothing(time: int) -> None:
    with pytest.raises(ValueError, match="moment"):
        cosign(NOTE, "aa", KEYS["aa"], time=time)


def test_one_witness_is_joined_once() -> None:
    with pytest.raises(IntegrityError):
        join_cosignatures(NOTE, [LINES["aa"], LINES["aa"]])


def test_a_note_with_the_cosignatures_of_two_hundred_hospitals_is_read() -> None:
    seeds = {f"hospital-{number:03d}": number.to_bytes(32, "big") for number in range(200)}
    keys = {name: Ed25519PrivateKey.from_private_bytes(seed) for name, seed in seeds.items()}
    note = join_cosignatures(NOTE, [cosign(NOTE, n, k, time=TIME) for n, k in keys.items()])
    public = {name: key.public_key() for name, key in keys.items()}
    assert len(read_cosigned(note, ORIGIN, LOG.public_key(), public).cosignatures) == 200
