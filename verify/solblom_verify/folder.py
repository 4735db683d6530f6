"""The files of an artefact, each read only if its bytes have the digest in the signed statement.

So nothing unsigned is interpreted, in whatever order the checks run.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from functools import cached_property
from itertools import islice
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from solblom_verify.canonical import MAX_SIGNED_BYTES, digest, parse_canonical, read_file
from solblom_verify.envelope import OpenedEnvelope, key_id, open_envelope, public_key_from_pem
from solblom_verify.history import LoggedModel, ModelName, read_log
from solblom_verify.shape import JsonObject
from solblom_verify.trust import Trust

STATEMENT_PAYLOAD_TYPE = "application/vnd.in-toto+json"
ATTESTATION = "attestations/model.dsse.json"
CHECKPOINT = "log/checkpoint.txt"
INCLUSION = "log/inclusion.json"
MANIFEST = "manifest.json"
ROUNDS = "training/rounds.jsonl"

# fmt: off
_MANIFEST_REQUIRED = frozenset({
    "schema", "name", "version", "task", "simulation", "files",
    "model", "sites", "training", "privacy", "environment",
})
_MANIFEST_OPTIONAL = frozenset({
    "title", "purpose", "legal_basis", "evaluation", "limitations", "intended_use",
    "not_for", "supersedes", "software", "log", "code", "id_scheme", "parents",
})
# fmt: on
_FILE_NAME = re.compile(r"[ -\[\]-~]+")  # printable ASCII without backslash
_MAX_ENTRIES = 100_000  # files and folders


class CheckError(ValueError):
    """A check says no, for the reason given."""


class Artefact:
    """An artefact folder, read on demand; each property raises what is wrong with it."""

    def __init__(self, folder: Path, trust: Trust, now: datetime, fresh_log: Path | None) -> None:
        self.folder = folder
        self.trust = trust
        self.now = now
        self.fresh_log = fresh_log

    @cached_property
    def files(self) -> frozenset[str]:
        """The paths of all files: regular ones with plain names, in folders that hold some."""
        if not stat.S_ISDIR(self.folder.lstat().st_mode):
            raise CheckError("the artefact is a symbolic link; name the folder itself")
        entries = frozenset(islice(_walk(self.folder), _MAX_ENTRIES + 1))
        if len(entries) > _MAX_ENTRIES:
            raise CheckError(f"more than {_MAX_ENTRIES} files and folders")
        return frozenset(path for path in entries if not path.endswith("/"))

    @cached_property
    def envelope(self) -> OpenedEnvelope:
        """The statement's envelope, all of its signatures verified."""
        return open_envelope(
            self.read_unsigned(ATTESTATION),
            payload_type=STATEMENT_PAYLOAD_TYPE,
            keys=self.trust.public_keys,
            threshold=self.trust.threshold,
        )

    @cached_property
    def statement(self) -> JsonObject:
        """The in-toto statement."""
        value = parse_canonical(self.envelope.payload)
        return JsonObject.of(value, "statement").only(
            {"_type", "subject", "predicateType", "predicate"}
        )

    @cached_property
    def predicate(self) -> JsonObject:
        """What the signers say about the model."""
        return self.statement.object("predicate").only(
            {"artefact", "name", "version", "created", "run", "simulation"}
        )

    @cached_property
    def subjects(self) -> Mapping[str, str]:
        """The signed files: path to digest."""
        subjects: dict[str, str] = {}
        previous = ""
        for subject in self.statement.objects("subject"):
            name = subject.only({"name", "digest"}).text("name")
            if name <= previous:
                raise CheckError("subjects are not in order of name, each once")
            hexadecimal = subject.object("digest").only({"sha256"}).sha256("sha256")
            subjects[name] = f"sha256:{hexadecimal}"
            previous = name
        return subjects

    @cached_property
    def manifest(self) -> JsonObject:
        """The manifest."""
        manifest = JsonObject.of(parse_canonical(self.read(MANIFEST)), "manifest")
        return manifest.only(_MANIFEST_REQUIRED, optional=_MANIFEST_OPTIONAL)

    @cached_property
    def rounds(self) -> tuple[JsonObject, ...]:
        """The lines of training/rounds.jsonl."""
        lines = self.read(ROUNDS).split(b"\n")
        if len(lines) < 2 or lines.pop() != b"":
            raise CheckError(f"{ROUNDS} does not hold lines that each end with LF")
        return tuple(
            JsonObject.of(parse_canonical(line), f"{ROUNDS} line {number}")
            for number, line in enumerate(lines, start=1)
        )

    @cached_property
    def site_keys(self) -> Mapping[str, Ed25519PublicKey]:
        """The hospitals' keys, by site."""
        keys = {}
        for site, entry in self.manifest.object("sites").items():
            keys[site] = public_key_from_pem(entry.text("node_key"))
            same(f"key id of {site}", entry.sha256("keyid"), key_id(keys[site]))
        if len({key_id(key) for key in keys.values()}) != len(keys):
            raise CheckError("two sites share one key")
        return keys

    @cached_property
    def log(self) -> LoggedModel | None:
        """What the log says about the model; None where the manifest names no log."""
        if "log" not in self.manifest.members:  # made by an older version
            refuse("extra file", self.files & {CHECKPOINT, INCLUSION})
            if self.fresh_log is not None:
                raise CheckError("a log was given, but the model names none that it stands in")
            return None
        refuse("missing file", {CHECKPOINT, INCLUSION} - self.files)
        name, version = self.manifest.text("name"), self.manifest.text("version")
        return read_log(
            ModelName(self.subjects[MANIFEST], name, version),
            self.manifest.object("log").only({"origin"}).text("origin"),
            self.read_unsigned(CHECKPOINT),
            self.read_unsigned(INCLUSION),
            export=read_file(self.fresh_log) if self.fresh_log else None,
            sites=self.site_keys,
            trust=self.trust,
        )

    def read_unsigned(self, path: str) -> bytes:
        """Read a file that vouches for the others, if it is small."""
        return read_file(self.folder / path, max_bytes=MAX_SIGNED_BYTES)

    def read(self, path: str) -> bytes:
        """Read a signed file whole, if its bytes are the signed ones."""
        if path not in self.subjects:
            raise CheckError(f"not a signed file: {path}")
        data = read_file(self.folder / path)
        if digest(data) != self.subjects[path]:
            raise CheckError(f"changed file: {path}")
        return data


def _walk(folder: Path, prefix: str = "") -> Iterator[str]:
    is_empty = True
    with os.scandir(folder) as entries:
        for entry in entries:
            is_empty = False
            path = f"{prefix}{entry.name}"
            if not _FILE_NAME.fullmatch(entry.name):
                raise CheckError(f"a name is not printable ASCII, or has a backslash: {path!a}")
            if entry.is_dir(follow_symlinks=False):
                yield f"{path}/"
                yield from _walk(Path(entry.path), f"{path}/")
            elif entry.is_file(follow_symlinks=False):
                yield path
            else:
                what = "symbolic link" if entry.is_symlink() else "neither file nor folder"
                raise CheckError(f"{what}: {path}")
    if is_empty:
        raise CheckError(f"empty folder: {prefix or '.'}")


def same(what: str, found: object, expected: object) -> None:
    """Raise what differs, if it differs."""
    if found != expected:
        raise CheckError(f"{what}: found {found!a}, expected {expected!a}")


def refuse(what: str, paths: Collection[str]) -> None:
    """Raise which files these are, if there are any."""
    if paths:
        more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
        raise CheckError(f"{what}: {', '.join(sorted(paths)[:3])}{more}")
