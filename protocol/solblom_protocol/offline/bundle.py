"""An offline bundle: all that a hospital's node needs in one folder, signed, for a machine without internet.

    wheels/…              every package, ours and others'
    requirements.txt      each wheel by name, version and digest, for `pip install --require-hashes`
    sbom.cdx.json         bill of materials (CycloneDX 1.6)
    check_bundle.py  INSTALL.*.txt
    manifest.json         all of the above by digest, canonical JSON
    manifest.dsse.json    the manifest, signed (DSSE, Ed25519)
    SHA256SUMS            all of the above, for `sha256sum --check` on a machine that has nothing of ours

The digest of SHA256SUMS names the bundle: two people compare it by phone before anything in the folder is run.
"""

import hashlib
import platform
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field

from solblom_protocol.messages.message import KeyId, Message, Timestamp
from solblom_protocol.messages.signing import sign_envelope

BUNDLE_PAYLOAD_TYPE = "application/vnd.solblom.bundle+json"
WHEELS = "wheels"
MANIFEST, ENVELOPE, SUMS = "manifest.json", "manifest.dsse.json", "SHA256SUMS"
REQUIREMENTS, BILL, SCRIPT = "requirements.txt", "sbom.cdx.json", "check_bundle.py"
NOTES = ("INSTALL.en.txt", "INSTALL.no.txt")
MAX_MANIFEST_BYTES = 4 * 1024**2
# One name a file, and no name that leads out of the folder or begins like an option.
PATH = r"^(wheels/[A-Za-z0-9][A-Za-z0-9._+!-]{0,200}\.whl|[A-Za-z0-9][A-Za-z0-9._-]{0,80})$"
_GLIBC = re.compile(r"manylinux_([0-9]+)_([0-9]+)_.*")
_OLD_NAMES = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}  # PEP 600
_ANY_SEPARATOR = re.compile(r"[-_.]+")

Version = tuple[int, int]


class BundledFile(Message):
    """A file of the bundle."""

    path: Annotated[str, Field(pattern=PATH)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size: Annotated[int, Field(ge=0, le=2**40)]  # bytes


class Machine(Message):
    """What a machine must be for the wheels to fit; `glibc` is the oldest that will do, None: none is asked for."""

    python: Annotated[str, Field(pattern=r"^3\.[0-9]{1,3}$")]
    system: Annotated[str, Field(pattern=r"^[A-Za-z]{1,20}$")]
    processor: Annotated[str, Field(pattern=r"^[A-Za-z0-9_]{1,20}$")]
    glibc: Annotated[str, Field(pattern=r"^[0-9]{1,3}\.[0-9]{1,3}$")] | None


class BundleManifest(Message):
    """What is signed."""

    schema_: Literal["solblom.bundle/1"] = Field(alias="schema")
    version: Annotated[str, Field(pattern=r"^[0-9][0-9A-Za-z.+!]{0,30}$")]  # of Solblom
    made: Timestamp
    signer: KeyId
    extras: tuple[Annotated[str, Field(pattern=r"^[a-z]{1,20}$")], ...]
    machine: Machine
    files: tuple[BundledFile, ...]

    @property
    def wheels(self) -> tuple["WheelName", ...]:
        """The wheels among the files, by name.

        Raises:
            ValueError: a file among the wheels is called otherwise than a wheel.
        """
        paths = [file for file in self.files if file.path.startswith(f"{WHEELS}/")]
        return tuple(sorted(WheelName.of(file.path, file.sha256) for file in paths))


@dataclass(frozen=True, order=True)
class WheelName:
    """What a wheel's file name says (PEP 427), and its digest.

    Attributes:
        name: normalised (PEP 503).
        platforms: its platform tags; `any` where it runs everywhere.
    """

    name: str
    version: str
    platforms: tuple[str, ...]
    sha256: str

    @classmethod
    def of(cls, path: str, sha256: str) -> "WheelName":
        """Read the name of a wheel.

        Raises:
            ValueError: it is no wheel's name.
        """
        words = path.rpartition("/")[2].removesuffix(".whl").split("-")
        if not path.endswith(".whl") or len(words) not in (5, 6) or not all(words):
            raise ValueError(f"{path} is not called as a wheel is")
        return cls(normalised(words[0]), words[1], tuple(words[-1].split(".")), sha256)

    @property
    def glibc(self) -> Version | None:
        """The oldest glibc that one of its tags asks for; None: any machine will do, or the tags do not say."""
        found = [_glibc_of(tag) for tag in self.platforms]
        return min((version for version in found if version is not None), default=None)


def normalised(name: str) -> str:
    """Return a package's name in its one spelling (PEP 503)."""
    return _ANY_SEPARATOR.sub("-", name).lower()


def requirements_file(wheels: Iterable[WheelName]) -> bytes:
    """Return what pip installs, and nothing else: each wheel by version and digest, no index, no building.

    Source: pip's documentation, "Secure installs": a digest on one line asks for one on all.
    """
    lines = [
        f"# pip install --no-index --find-links {WHEELS} --require-hashes -r {REQUIREMENTS}",
        "--no-index",
        f"--find-links {WHEELS}",
        "--only-binary :all:",
        *(f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}" for wheel in wheels),
    ]
    return ("\n".join(lines) + "\n").encode()


def sums_file(digests: Mapping[str, str]) -> bytes:
    """Return path → SHA-256 as `sha256sum` writes and checks it."""
    return "".join(f"{digests[path]}  {path}\n" for path in sorted(digests)).encode()


def spoken(sums: bytes) -> str:
    """Return the bundle's number, as two people read it to each other: SHA-256 of SHA256SUMS in groups of four."""
    return " ".join(re.findall("....", hashlib.sha256(sums).hexdigest()))


def sign_manifest(manifest: BundleManifest, key: Ed25519PrivateKey) -> bytes:
    """Return the manifest's envelope."""
    return sign_envelope(manifest.payload(), BUNDLE_PAYLOAD_TYPE, [key])


def this_machine() -> Machine:
    """Return what this machine is; of another libc than glibc, no version."""
    library, version = platform.libc_ver()
    return Machine(
        python=f"{sys.version_info[0]}.{sys.version_info[1]}",
        system=platform.system(),
        processor=platform.machine(),
        glibc=".".join(version.split(".")[:2]) if library == "glibc" else None,
    )


def needed_machine(wheels: Iterable[WheelName], here: Machine) -> Machine:
    """Return what a machine must be for these wheels, which pip has found fit for this one.

    A wheel that was built here, from a source package, needs a glibc as new as this machine's.
    """
    asked: list[Version] = []
    for wheel in wheels:
        known = wheel.glibc
        if known is None and wheel.platforms != ("any",) and here.glibc is not None:
            known = _version(here.glibc)
        asked += [] if known is None else [known]
    oldest = max(asked, default=None)
    return here.model_copy(update={"glibc": None if oldest is None else f"{oldest[0]}.{oldest[1]}"})


def misfits(needed: Machine, here: Machine) -> tuple[str, ...]:
    """Return why the wheels do not fit a machine, in words; empty where they do."""
    found = [
        f"{what} {wanted} is needed, here is {seen}"
        for what, wanted, seen in (
            ("Python", needed.python, here.python),
            ("the system", needed.system, here.system),
            ("the processor", needed.processor, here.processor),
        )
        if wanted != seen
    ]
    if needed.glibc is not None and (
        here.glibc is None or _version(here.glibc) < _version(needed.glibc)
    ):
        found.append(f"glibc {needed.glibc} or newer is needed, here is {here.glibc or 'none'}")
    return tuple(found)


def _glibc_of(tag: str) -> Version | None:
    match = _GLIBC.fullmatch(tag)
    if match is not None:
        return int(match[1]), int(match[2])
    return _OLD_NAMES.get(tag.partition("_")[0])


def _version(text: str) -> Version:
    major, minor = text.split(".")
    return int(major), int(minor)
