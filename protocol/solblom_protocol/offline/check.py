"""Is a folder the bundle that its signer made: signature, every file by digest, nothing else; what was not checked."""

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from solblom_protocol.errors import IntegrityError
from solblom_protocol.messages.message import parse_exact
from solblom_protocol.offline.bundle import (
    BILL,
    BUNDLE_PAYLOAD_TYPE,
    ENVELOPE,
    MANIFEST,
    MAX_MANIFEST_BYTES,
    REQUIREMENTS,
    SUMS,
    WHEELS,
    BundleManifest,
    Machine,
    WheelName,
    misfits,
    requirements_file,
    spoken,
    sums_file,
)
from solblom_verify.artefact import Check
from solblom_verify.canonical import CanonicalError, file_digest, parse_canonical, read_file
from solblom_verify.envelope import EnvelopeError, key_id, open_envelope
from solblom_verify.shape import JsonObject, ShapeError
from solblom_verify.wording import counted

NOT_CHECKED = (
    "The packages: that each is the operator's is checked, not what its code does.",
    "Weaknesses: no list of known ones was asked; give sbom.cdx.json to your own scanner.",
    "Licences: as each package states its own.",
    "The key: whose it is, you know from comparing its fingerprint by phone.",
    "This installation: that what is installed here came from this folder.",
    "Age: an older bundle has a good signature too; ask the operator for the newest one's number.",
    "Later: the folder as it was a moment ago; pip checks each wheel again (--require-hashes).",
)
_MACHINE = "this machine"
_MOST_NAMED = 3


class _SaysNoError(ValueError):
    """A check says no, for the reason given."""


@dataclass(frozen=True)
class BundleVerdict:
    """What is known about a folder; `number` is compared by phone, None where there is none."""

    checks: tuple[Check, ...]
    manifest: BundleManifest | None
    number: str | None
    not_checked: tuple[str, ...] = NOT_CHECKED

    @property
    def holds(self) -> bool:
        """Whether the folder is the signer's, whatever machine it is for."""
        return all(check.ok for check in self.checks if check.name != _MACHINE)

    @property
    def fits(self) -> bool:
        """Whether this machine is one that it was made for."""
        return all(check.ok for check in self.checks)


def check_bundle(folder: Path, key: Ed25519PublicKey, *, here: Machine) -> BundleVerdict:
    """Check a bundle against the one key that may have signed it. Follows no link and runs nothing of the folder."""
    checks: list[Check] = []
    try:
        manifest = _opened(folder, key)
    except _SaysNoError as error:
        return BundleVerdict((Check("signature", False, str(error)),), None, None)
    made = f"Solblom {manifest.version}, made {manifest.made}"
    checks.append(Check("signature", True, f"by key {key_id(key)}: {made}"))
    number: str | None = None
    steps = (
        ("files", _files),
        ("nothing else", _nothing_else),
        ("sums", _sums),
        ("requirements", _requirements),
        ("bill of materials", _bill),
    )
    for name, step in steps:
        try:
            checks.append(Check(name, True, step(folder, manifest)))
        except _SaysNoError as error:
            checks.append(Check(name, False, str(error)))
        except OSError as error:
            checks.append(Check(name, False, f"a file cannot be read: {error.strerror or error}"))
    why_not = misfits(manifest.machine, here)
    checks.append(Check(_MACHINE, not why_not, "; ".join(why_not) or "the wheels are made for it"))
    if all(check.ok for check in checks if check.name == "sums"):
        with contextlib.suppress(OSError, _SaysNoError):  # it was there a moment ago
            number = spoken(_text_of(folder / SUMS))
    return BundleVerdict(tuple(checks), manifest, number)


def _opened(folder: Path, key: Ed25519PublicKey) -> BundleManifest:
    """Return the manifest, once its signature holds and manifest.json is the same."""
    try:
        envelope = read_file(folder / ENVELOPE, max_bytes=2 * MAX_MANIFEST_BYTES)
        opened = open_envelope(envelope, payload_type=BUNDLE_PAYLOAD_TYPE, keys={key_id(key): key})
        if read_file(folder / MANIFEST, max_bytes=MAX_MANIFEST_BYTES) != opened.payload:
            raise _SaysNoError(f"{MANIFEST} is not what was signed")
        manifest = parse_exact(BundleManifest, opened.payload)
    except OSError as error:
        raise _SaysNoError(f"{ENVELOPE} or {MANIFEST} cannot be read: {error.strerror}") from None
    except CanonicalError as error:
        raise _SaysNoError(str(error)) from None
    except EnvelopeError as error:
        raise _SaysNoError(str(error)) from None
    except IntegrityError as error:
        raise _SaysNoError(error.message) from None
    paths = [file.path for file in manifest.files]
    if manifest.signer != key_id(key) or paths != sorted(set(paths)):
        raise _SaysNoError("the manifest names another signer, or a file twice")
    return manifest


def _files(folder: Path, manifest: BundleManifest) -> str:
    wrong = []
    for file in manifest.files:
        try:
            digest, size = file_digest(folder / file.path)
        except OSError:
            wrong.append(f"{file.path}: missing, or no plain file")
            continue
        if (digest, size) != (f"sha256:{file.sha256}", file.size):
            wrong.append(f"{file.path}: other bytes than were signed")
    _none_of(wrong)
    total = sum(file.size for file in manifest.files)
    return f"{counted(len(manifest.files), 'file')}, {total / 2**20:.0f} MiB, each by its digest"


def _nothing_else(folder: Path, manifest: BundleManifest) -> str:
    known = {file.path for file in manifest.files} | {MANIFEST, ENVELOPE, SUMS}
    _none_of([f"{name!a}: nobody signed it" for name in _everything(folder) if name not in known])
    return "no file, folder or link that nobody signed"


def _everything(folder: Path) -> Iterator[str]:
    """Give the path of all that lies in the folder; of folders, only those that may not be there."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        mode = entry.stat(follow_symlinks=False).st_mode
        if entry.name == WHEELS and stat.S_ISDIR(mode):
            yield from (f"{WHEELS}/{inner.name}" for inner in os.scandir(entry.path))
        else:
            yield entry.name


def _sums(folder: Path, manifest: BundleManifest) -> str:
    if _text_of(folder / SUMS) != _expected_sums(folder, manifest):
        raise _SaysNoError(f"{SUMS} does not hold the digests of the files")
    return f"{SUMS} says the same"


def _expected_sums(folder: Path, manifest: BundleManifest) -> bytes:
    digests = {file.path: file.sha256 for file in manifest.files}
    for name in (MANIFEST, ENVELOPE):
        digests[name] = file_digest(folder / name)[0].removeprefix("sha256:")
    return sums_file(digests)


def _requirements(folder: Path, manifest: BundleManifest) -> str:
    wheels = _wheels(manifest)
    names = [wheel.name for wheel in wheels]
    _none_of(sorted(f"{name}: twice" for name in set(names) if names.count(name) > 1))
    if _text_of(folder / REQUIREMENTS) != requirements_file(wheels):
        raise _SaysNoError(
            f"{REQUIREMENTS} does not list the wheels, each by its digest, and no more"
        )
    return f"{counted(len(wheels), 'wheel')}, each by name, version and digest"


def _bill(folder: Path, manifest: BundleManifest) -> str:
    try:
        bill = JsonObject.of(parse_canonical(_text_of(folder / BILL)), BILL)
        listed = [_listed(component) for component in bill.objects("components")]
    except (CanonicalError, ShapeError, ValueError) as error:
        raise _SaysNoError(str(error)) from None
    wheels = {(wheel.name, wheel.version, wheel.sha256) for wheel in _wheels(manifest)}
    wrong = [f"{name} {version}: not listed" for name, version, _ in sorted(wheels - set(listed))]
    wrong += [f"{name!a}: no such wheel" for name, _, _ in sorted(set(listed) - wheels)]
    wrong += ["a component twice"] if len(listed) != len(set(listed)) else []
    _none_of(wrong)
    return f"{len(listed)} of {counted(len(wheels), 'wheel')} listed, and nothing else"


def _listed(component: JsonObject) -> tuple[str, str, str]:
    digests = [
        entry.text("content")
        for entry in component.objects("hashes")
        if entry.text("alg") == "SHA-256"
    ]
    if len(digests) != 1:
        raise _SaysNoError(f"a component of {BILL} has {len(digests)} digests, and one is needed")
    return component.text("name"), component.text("version"), digests[0]


def _wheels(manifest: BundleManifest) -> tuple[WheelName, ...]:
    try:
        return manifest.wheels
    except ValueError as error:
        raise _SaysNoError(str(error)) from None


def _text_of(path: Path) -> bytes:
    """Return a small text of a bundle.

    Raises:
        OSError: it cannot be read.
    """
    try:
        return read_file(path, max_bytes=MAX_MANIFEST_BYTES)
    except CanonicalError as error:
        raise _SaysNoError(str(error)) from None


def _none_of(wrong: list[str]) -> None:
    """Raise what is wrong, the first few of it, where anything is."""
    if wrong:
        more = f" and {len(wrong) - _MOST_NAMED} more" if len(wrong) > _MOST_NAMED else ""
        raise _SaysNoError("; ".join(wrong[:_MOST_NAMED]) + more)
