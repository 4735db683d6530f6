"""Changes to an artefact that the verifier must find: random ones in twelve classes, and every single bit.

Used by tests/security/test_artefact_mutations.py with a small share, and by bench/mutations.py in full. The artefact
is held in memory and written anew before each change, so keep the folder in a memory-backed file system.
"""

import base64
import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from solblom_protocol.logs.cosignature import cosign
from solblom_protocol.logs.transparency import Head, write_checkpoint
from solblom_protocol.messages.signing import sign_envelope
from solblom_verify.artefact import verify_artefact
from solblom_verify.canonical import canonical_json
from solblom_verify.envelope import key_id, public_key_to_pem
from solblom_verify.trust import Trust, load_trust
from unit.verify.artefact_builder import NOW, SITES, ArtefactBuilder
from unit.verify.log_builder import LogBuilder

MANIFEST, ENVELOPE = "manifest.json", "attestations/model.dsse.json"
CHECKPOINT, INCLUSION = "log/checkpoint.txt", "log/inclusion.json"
EVERY_BIT = (MANIFEST, ENVELOPE, CHECKPOINT, INCLUSION)
ATTACKER = Ed25519PrivateKey.from_private_bytes(b"attacker" * 4)
EXTRA = (".git/config", ".git/HEAD", ".DS_Store", "log/notes.txt", "attestations/other.dsse.json")


@dataclass
class Target:
    """An artefact and who judges it: the trust file and the time."""

    folder: Path
    trust: Trust
    now: datetime
    files: dict[str, bytes] = field(default_factory=dict)
    is_clean: bool = True

    def __post_init__(self) -> None:
        """Keep the files in memory."""
        self.files = contents(self.folder)

    def accepts(self) -> bool:
        """Tell whether the verifier accepts the folder as it is now."""
        return verify_artefact(self.folder, self.trust, now=self.now).ok

    def restore(self) -> None:
        """Write the artefact as it was."""
        if self.is_clean:
            return
        shutil.rmtree(self.folder)
        for name, data in self.files.items():
            self.write(name, data)
        self.is_clean = True

    def write(self, name: str, data: bytes) -> None:
        """Write a file."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self.is_clean = False

    def remove(self, name: str) -> Path:
        """Remove a file; its folder stays."""
        self.is_clean = False
        (self.folder / name).unlink()
        return self.folder / name

    def any(self, rng: random.Random) -> str:
        """Choose a file; one that vouches for the others in half of all cases."""
        return rng.choice(EVERY_BIT) if rng.random() < 0.5 else rng.choice(sorted(self.files))


def contents(folder: Path) -> dict[str, bytes]:
    """Return a folder's files as bytes by path; anything else is named as what it is."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name + " (link)"] = os.fsencode(path.readlink())
        elif path.is_file():
            found[name] = path.read_bytes()
        elif not path.is_dir() or not any(path.iterdir()):
            found[name + "/"] = b""
    return found


def small_target(home: Path) -> Target:
    """Write a small artefact: two sites, signed by two, released, cosigned by both pinned witnesses."""
    builder = ArtefactBuilder()
    log = LogBuilder(builder)
    folder = log.write(home)
    log.add_status("validated")
    log.add_status("released")
    log.write_files(folder)
    keys = {site: key.public_key() for site, key in builder.site_keys.items()}
    witnesses = [
        {"keyid": key_id(key), "name": site, "public_key": public_key_to_pem(key)}
        for site, key in keys.items()
    ]
    path = builder.write_trust(home / "trust.json", witnesses=witnesses, quorum=len(SITES))
    return Target(folder, load_trust(path), NOW)


Mutation = Callable[[Target, random.Random], None]


def flip_bit(target: Target, rng: random.Random) -> None:
    name = target.any(rng)
    data = bytearray(target.files[name])
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    target.write(name, bytes(data))


def truncate(target: Target, rng: random.Random) -> None:
    name = target.any(rng)
    data = target.files[name]
    target.write(name, data[: rng.randrange(len(data))])


def append(target: Target, rng: random.Random) -> None:
    name = target.any(rng)
    more = rng.choice([b"\n", b" ", b"\0", b"\r\n", rng.randbytes(1 + rng.randrange(40))])
    target.write(name, target.files[name] + more)


def delete(target: Target, rng: random.Random) -> None:
    path = target.remove(target.any(rng))
    if rng.random() < 0.5 and not any(path.parent.iterdir()):
        path.parent.rmdir()


def rename(target: Target, rng: random.Random) -> None:
    name = target.any(rng)
    target.remove(name)
    other = [name.upper(), name + "~", name.replace(".", "_"), f"x/{name}", f".{Path(name).name}"]
    target.write(rng.choice([new for new in other if new != name]), target.files[name])


def swap_files(target: Target, rng: random.Random) -> None:
    one, two = target.any(rng), target.any(rng)
    target.write(one, target.files[two])
    target.write(two, target.files[one])


def add_file(target: Target, rng: random.Random) -> None:
    name = rng.choice([*EXTRA, f"{rng.getrandbits(32):x}", f"model/{rng.getrandbits(32):x}.bin"])
    if rng.random() < 0.1:
        target.is_clean = False
        (target.folder / name).mkdir(parents=True)  # an empty folder
    else:
        target.write(name, rng.randbytes(rng.randrange(3)))


def change_kind(target: Target, rng: random.Random) -> None:
    """A link to the same bytes, a pipe, or a folder where a file was."""
    name = target.any(rng)
    outside = target.folder.parent / "outside"
    outside.write_bytes(target.files[name])
    path, kind = target.remove(name), rng.randrange(3)
    if kind == 0:
        path.symlink_to(outside)
    elif kind == 1:
        os.mkfifo(path)
    else:
        path.mkdir()


def sign_again(target: Target, rng: random.Random) -> None:
    """An attacker signs the statement, alone or beside the others, of the same files or of changed ones."""
    envelope: Any = json.loads(target.files[ENVELOPE])
    payload: Any = json.loads(base64.b64decode(envelope["payload"]))
    if rng.random() < 0.5:
        weights = rng.choice(payload["subject"])
        weights["digest"]["sha256"] = rng.randbytes(32).hex()
    else:
        payload["predicate"]["created"] = "2026-11-22T21:00:01Z"
    signed: Any = json.loads(
        sign_envelope(canonical_json(payload), envelope["payloadType"], [ATTACKER])
    )
    entries = list(signed["signatures"])
    if rng.random() < 0.5:
        entries = sorted([*entries, *envelope["signatures"]], key=lambda entry: str(entry["keyid"]))
    if rng.random() < 0.3:
        entries[0]["keyid"] = envelope["signatures"][0]["keyid"]  # under a trusted name
    target.write(ENVELOPE, canonical_json(signed | {"signatures": entries}))


def false_checkpoint(target: Target, rng: random.Random) -> None:
    """Another key's head, another size, another root, a cosignature less, or a false one."""
    lines = target.files[CHECKPOINT].decode().splitlines()
    origin, size, root = lines[0], int(lines[1]), base64.b64decode(lines[2])
    signatures = lines[lines.index("") + 1 :]
    kind = rng.randrange(5)
    if kind == 0:
        size += rng.choice([-1, 1, 7])
    elif kind == 1:
        root = rng.randbytes(32)
    elif kind == 2:
        signatures.pop(rng.randrange(len(signatures)))
    elif kind == 3:
        rng.shuffle(signatures)
    head = Head(max(size, 1), root)
    if kind in (0, 1) and rng.random() < 0.5:
        signatures[0] = write_checkpoint(origin, head, ATTACKER).splitlines()[-1]
    if kind == 4:
        name = signatures[-1].split(" ")[1]
        note = write_checkpoint(origin, head, ATTACKER)
        signatures[-1] = cosign(note, name, ATTACKER, time=1_795_381_260)
    body = [origin, str(head.size), base64.b64encode(root).decode(), "", *signatures, ""]
    target.write(CHECKPOINT, "\n".join(body).encode())


def swap_proofs(target: Target, rng: random.Random) -> None:
    """Proofs, entries or indices exchanged, shortened or repeated."""
    value: Any = json.loads(target.files[INCLUSION])
    items = value["entries"]
    one, two = rng.choice(items), rng.choice(items)
    kind = rng.randrange(6)
    if kind == 0:
        one["proof"], two["proof"] = two["proof"], one["proof"]
    elif kind == 1:
        one["entry"], two["entry"] = two["entry"], one["entry"]
    elif kind == 2:
        one["index"] += rng.choice([-1, 1])
    elif kind == 3:
        rng.shuffle(one["proof"])
    elif kind == 4:
        one["proof"] = one["proof"][:-1] if rng.random() < 0.5 else one["proof"] * 2
    else:
        items.append(two) if rng.random() < 0.5 else items.reverse()
    target.write(INCLUSION, canonical_json(value))


def spell_otherwise(target: Target, rng: random.Random) -> None:
    """The same JSON in another layout, order or escape: one artefact is one byte string."""
    name = rng.choice([n for n in target.files if n.endswith(".json")])
    value: Any = json.loads(target.files[name])
    text = rng.choice(
        [
            json.dumps(value, indent=rng.choice([1, 2, 4])),
            json.dumps(value),
            canonical_json(value).decode().replace("/", "\\/"),
            canonical_json(value).decode() + rng.choice(["\n", " ", "\t"]),
            canonical_json(value).decode().replace("a", "\\u0061", 1),
            "\ufeff" + canonical_json(value).decode(),
        ]
    )
    target.write(name, text.encode())


CLASSES: dict[str, Mutation] = {
    "a bit flipped": flip_bit,
    "truncated": truncate,
    "appended to": append,
    "a file deleted": delete,
    "a file renamed": rename,
    "two files exchanged": swap_files,
    "a file or folder added": add_file,
    "a link, pipe or folder for a file": change_kind,
    "signed again by another key": sign_again,
    "a false checkpoint": false_checkpoint,
    "proofs exchanged": swap_proofs,
    "the same JSON, spelt otherwise": spell_otherwise,
}


@dataclass
class Outcome:
    """How many changes were tried and found, by class, and what was accepted."""

    tried: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    accepted: list[str] = field(default_factory=list)

    def note(self, name: str, *, accepted: bool, what: str) -> None:
        self.tried[name] += 1
        if accepted:
            self.accepted.append(f"{name}: {what}")
        else:
            self.found[name] += 1


def random_mutations(target: Target, count: int, *, seed: int) -> Outcome:
    """Try `count` random changes, each of which does change the folder."""
    rng, outcome = random.Random(seed), Outcome()  # noqa: S311
    names = sorted(CLASSES)
    while outcome.tried.total() < count:
        target.restore()
        name = rng.choice(names)
        CLASSES[name](target, rng)
        if contents(target.folder) == target.files:
            continue
        number = outcome.tried.total()
        outcome.note(name, accepted=target.accepts(), what=f"seed {seed}, number {number}")
    target.restore()
    return outcome


def bit_flips(target: Target, *, every: int = 1) -> Outcome:
    """Flip every bit of the files that vouch for the others; or one in `every`."""
    outcome = Outcome()
    target.restore()
    for name in EVERY_BIT:
        for position, changed in _flipped(target.files[name], every):
            target.write(name, changed)
            outcome.note(name, accepted=target.accepts(), what=f"bit {position}")
        target.write(name, target.files[name])
    target.restore()
    return outcome


def _flipped(data: bytes, every: int) -> Iterator[tuple[int, bytes]]:
    for position in range(0, 8 * len(data), every):
        changed = bytearray(data)
        changed[position // 8] ^= 1 << position % 8
        yield position, bytes(changed)


def false_alarms(target: Target, count: int) -> int:
    """Verify the untouched artefact `count` times; return how often it was refused."""
    target.restore()
    return sum(not target.accepts() for _ in range(count))
