"""What a hospital reads of a folder that was carried to it: with our command, and with the script for plain machines.

Both give a verdict whatever they are given, and no other bytes than those that were signed hold.
"""

import contextlib
import hashlib
import io
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

from bundle_lab import LabBundle
from fuzz.target import Target
from solblom_protocol.messages.signing import sign_envelope
from solblom_protocol.offline.bundle import (
    BILL,
    BUNDLE_PAYLOAD_TYPE,
    ENVELOPE,
    MANIFEST,
    SUMS,
    this_machine,
)
from solblom_protocol.offline.check import check_bundle
from solblom_server.offline import check_bundle as script


@cache
def _bundle() -> LabBundle:
    return LabBundle.make(Path(tempfile.mkdtemp(prefix="fuzz-bundle-")) / "bundle")


@cache
def _whole(name: str) -> bytes:
    return (_bundle().folder / name).read_bytes()


def _holds() -> bool:
    bundle = _bundle()
    return check_bundle(bundle.folder, bundle.key.public_key(), here=this_machine()).holds


def _script_holds() -> bool:
    with contextlib.redirect_stdout(io.StringIO()):
        return script.main(["check_bundle.py", str(_bundle().folder)]) == 0


def _replaced(name: str, data: bytes, holds: Callable[[], bool]) -> object:
    whole, path = _whole(name), _bundle().folder / name
    path.write_bytes(data)
    try:
        if holds() and data != whole:
            raise AssertionError(f"another {name} holds")
    finally:
        path.write_bytes(whole)
    return None


def _envelope(data: bytes, folder: Path) -> object:
    return _replaced(ENVELOPE, data, _holds)


def _payload(data: bytes, folder: Path) -> object:
    """Sign whatever is given: the signer may be careless, or hostile."""
    if not data:
        return None
    whole, path = _whole(MANIFEST), _bundle().folder / MANIFEST
    path.write_bytes(data)
    try:
        signed = sign_envelope(data, BUNDLE_PAYLOAD_TYPE, [_bundle().key])
        return _replaced(ENVELOPE, signed, _holds) if data != whole else None
    finally:
        path.write_bytes(whole)


def _bill(data: bytes, folder: Path) -> object:
    """Put another bill into a bundle whose signer vouches for it: nothing but a verdict may come of it."""
    bundle = _bundle()
    kept = {name: _whole(name) for name in (BILL, MANIFEST, ENVELOPE, SUMS)}
    (bundle.folder / BILL).write_bytes(data)
    try:
        bundle.sign_again()
        return bundle.check()
    finally:
        for name, whole in kept.items():
            (bundle.folder / name).write_bytes(whole)


def _plain_sums(data: bytes, folder: Path) -> object:
    return _replaced(SUMS, data, lambda: _script_holds() and _is_named(data))


def _is_named(data: bytes) -> bool:
    """Tell whether the number that people compare is the operator's."""
    return hashlib.sha256(data).digest() == hashlib.sha256(_whole(SUMS)).digest()


def _plain_manifest(data: bytes, folder: Path) -> object:
    """Put another manifest beside sums that name it: the number tells, and the script says no or yes, and no more."""
    named, other = (hashlib.sha256(text).hexdigest() for text in (_whole(MANIFEST), data))
    sums = _bundle().folder / SUMS
    sums.write_bytes(_whole(SUMS).replace(named.encode(), other.encode()))

    def looked_at() -> bool:
        _script_holds()
        return False

    try:
        return _replaced(MANIFEST, data, looked_at)
    finally:
        sums.write_bytes(_whole(SUMS))


BUNDLES = (
    Target("bundle-envelope", _envelope, lambda: (_whole(ENVELOPE),)),
    Target("bundle-manifest", _payload, lambda: (_whole(MANIFEST),)),
    Target("bundle-bill", _bill, lambda: (_whole(BILL),)),
    Target("bundle-plain-sums", _plain_sums, lambda: (_whole(SUMS),)),
    Target("bundle-plain-manifest", _plain_manifest, lambda: (_whole(MANIFEST),)),
)
