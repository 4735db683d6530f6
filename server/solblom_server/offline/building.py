"""Make an offline bundle of a copy of this repository: pip builds our parts and gets everything else.

pip asks what it is set up to ask on this machine, its cache first; nothing here names an index.
"""

import datetime as dt
import hashlib
import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from solblom_protocol.durable_file import write_whole
from solblom_protocol.errors import ConfigurationError
from solblom_protocol.keys.key_files import fingerprint
from solblom_protocol.messages.message import timestamp
from solblom_protocol.offline.bundle import (
    BILL,
    ENVELOPE,
    MANIFEST,
    NOTES,
    REQUIREMENTS,
    SCRIPT,
    SUMS,
    WHEELS,
    BundledFile,
    BundleManifest,
    WheelName,
    needed_machine,
    normalised,
    requirements_file,
    sign_manifest,
    sums_file,
    this_machine,
)
from solblom_verify.envelope import key_id

PARTS = ("verify", "protocol", "models", "client")
"""What a hospital installs: no code of the coordinator."""
CONSTRAINTS = "constraints.txt"
NAME = "solblom-node"
# Of a wheel that is built here, the clock shall not show in its bytes: the zip format's oldest date.
BUILD_EPOCH = "315532800"
_LAST_LINES = 6


@dataclass(frozen=True)
class Source:
    """A copy of this repository.

    Attributes:
        pinned: package → version, of constraints.txt.
        extras: those that a hospital may choose.
    """

    folder: Path
    version: str
    pinned: Mapping[str, str]
    extras: tuple[str, ...]

    @classmethod
    def read(cls, folder: Path) -> "Source":
        """Read what a copy says of itself.

        Raises:
            ConfigurationError: SB-101, it is no copy of this repository.
        """
        try:
            constraints = (folder / CONSTRAINTS).read_text(encoding="utf-8")
            projects = [
                tomllib.loads((folder / part / "pyproject.toml").read_text(encoding="utf-8"))
                for part in PARTS
            ]
            client = projects[-1]["project"]
            extras = tuple(sorted(client["optional-dependencies"]))
            return cls(folder.resolve(), client["version"], _pins(constraints), extras)
        except (OSError, ValueError, KeyError):
            raise ConfigurationError(
                "SB-101",
                f"{folder} is no copy of Solblom's repository: {CONSTRAINTS} and the folders "
                f"{', '.join(PARTS)} are needed",
                "Give --source with a copy of the repository at the version that is to be installed",
            ) from None


def build(
    source: Source,
    into: Path,
    key: Ed25519PrivateKey,
    *,
    extras: Sequence[str] = (),
    now: dt.datetime,
) -> BundleManifest:
    """Make the bundle in a new folder; nothing stays where it fails.

    Raises:
        ConfigurationError: SB-113 the folder exists, SB-103 an unknown extra, SB-120 pip found or built something else
            than constraints.txt names, or nothing.
    """
    unknown = sorted(set(extras) - set(source.extras))
    if unknown:
        known = ", ".join(source.extras)
        raise ConfigurationError("SB-103", f"Unknown extra: {', '.join(unknown)}", f"Of: {known}")
    if into.exists():
        raise ConfigurationError("SB-113", f"{into} exists already")
    into.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{into.name}-", dir=into.parent) as name:
        made = Path(name) / "bundle"
        (made / WHEELS).mkdir(parents=True)
        run_pip(source, made / WHEELS, extras)
        manifest = describe(source, made, key, extras=extras, now=now)
        made.rename(into)
    return manifest


def run_pip(source: Source, wheels: Path, extras: Sequence[str]) -> None:
    """Let pip put a wheel of everything into a folder.

    Raises:
        ConfigurationError: SB-120.
    """
    chosen = f"[{','.join(sorted(extras))}]" if extras else ""
    parts = [f"{source.folder / part}{chosen if part == 'client' else ''}" for part in PARTS]
    words = ["wheel", "--quiet", "--wheel-dir", str(wheels)]
    done = subprocess.run(  # noqa: S603 - our own Python's pip
        [sys.executable, "-P", "-m", "pip", *words, "-c", str(source.folder / CONSTRAINTS), *parts],
        env=os.environ | {"SOURCE_DATE_EPOCH": BUILD_EPOCH, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if not line.startswith("WARNING")]
        raise ConfigurationError("SB-120", "pip says: " + "\n".join(said[-_LAST_LINES:]).strip())


def describe(
    source: Source,
    folder: Path,
    key: Ed25519PrivateKey,
    *,
    extras: Sequence[str],
    now: dt.datetime,
) -> BundleManifest:
    """Write everything else beside a folder's wheels: requirements, bill of materials, notes, manifest, sums.

    Raises:
        ConfigurationError: SB-120, a wheel is not what constraints.txt names.
    """
    wheels = wheels_in(folder)
    check_pins(wheels, source)
    paths = sorted((folder / WHEELS).iterdir())
    machine = needed_machine(wheels, this_machine())
    texts = {
        REQUIREMENTS: requirements_file(wheels),
        BILL: _bill(paths, wheels, version=source.version),
        SCRIPT: _template(SCRIPT).encode(),
    }
    shown = fingerprint(key.public_key())
    words = {
        "VERSION": source.version,
        "PYTHON": machine.python,
        "SYSTEM": machine.system,
        "PROCESSOR": machine.processor,
        "GLIBC": "" if machine.glibc is None else f", glibc >= {machine.glibc}",
        "COUNT": str(len(wheels)),
        "MIB": f"{sum(path.stat().st_size for path in paths) / 2**20:.0f}",
        "MADE": timestamp(now)[:10],
        "FINGERPRINT_1": shown[:39],
        "FINGERPRINT_2": shown[40:],
    }
    for name in NOTES:
        texts[name] = _filled(_template(name), words).encode()
    for name, data in texts.items():
        write_whole(folder / name, data)
    manifest = BundleManifest(
        schema="solblom.bundle/1",
        version=source.version,
        made=timestamp(now),
        signer=key_id(key.public_key()),
        extras=tuple(sorted(extras)),
        machine=machine,
        files=tuple(
            _file(folder, path)
            for path in sorted([*texts, *(f"{WHEELS}/{path.name}" for path in paths)])
        ),
    )
    _seal(folder, manifest, key)
    return manifest


def wheels_in(folder: Path) -> tuple[WheelName, ...]:
    """Return the wheels of a bundle in the making.

    Raises:
        ConfigurationError: SB-120, pip left something that is no wheel.
    """
    try:
        return tuple(
            sorted(WheelName.of(path.name, _sha256(path)) for path in (folder / WHEELS).iterdir())
        )
    except ValueError as error:
        raise ConfigurationError("SB-120", f"pip left something else: {error}") from None


def check_pins(wheels: Iterable[WheelName], source: Source) -> None:
    """Refuse a wheel in another version than the tested one, or of a package that nobody tested.

    Raises:
        ConfigurationError: SB-120.
    """
    ours = {f"solblom-{part}": source.version for part in PARTS}
    wanted = {**source.pinned, **ours}
    wrong = [
        f"{wheel.name} {wheel.version} ({wanted.get(wheel.name, 'not named')})"
        for wheel in wheels
        if wheel.version.partition("+")[0] != wanted.get(wheel.name)
    ]
    missing = sorted(ours.keys() - {wheel.name for wheel in wheels})
    if wrong or missing:
        raise ConfigurationError(
            "SB-120",
            f"{CONSTRAINTS} names other versions: {', '.join(wrong + missing)}",
            f"Correct {CONSTRAINTS}, or what pip is set up to ask on this machine",
        )


def _pins(constraints: str) -> dict[str, str]:
    lines = [line.partition("#")[0].strip() for line in constraints.splitlines()]
    pins = [line.split("==", 1) for line in lines if line]
    return {normalised(name): version for name, version in pins}


def _bill(paths: Sequence[Path], wheels: Iterable[WheelName], *, version: str) -> bytes:
    from solblom_models.artefact_files.sbom import bill_of_wheels
    from solblom_models.artefact_files.wheels import wheel_components

    called = {wheel.name: wheel.version for wheel in wheels}
    components = wheel_components(paths)
    say = {component.name: component.version for component in components}
    lying = sorted(name for name in called.keys() | say.keys() if called.get(name) != say.get(name))
    if lying:  # pip and the bill would mean two packages
        raise ConfigurationError(
            "SB-120",
            f"What a wheel is called is not what its metadata say: {', '.join(lying)}",
            "Delete it from pip's cache, and find out where it comes from",
        )
    digests = {wheel.name: wheel.sha256 for wheel in wheels}
    return bill_of_wheels(components, digests, name=NAME, version=version)


def _template(name: str) -> str:
    return (files("solblom_server.offline") / name).read_text(encoding="utf-8")


def _filled(text: str, words: Mapping[str, str]) -> str:
    for name, word in words.items():
        text = text.replace(f"@{name}@", word)
    return text


def _file(folder: Path, path: str) -> BundledFile:
    return BundledFile(
        path=path, sha256=_sha256(folder / path), size=(folder / path).stat().st_size
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _seal(folder: Path, manifest: BundleManifest, key: Ed25519PrivateKey) -> None:
    digests = {file.path: file.sha256 for file in manifest.files}
    signed = {MANIFEST: manifest.payload(), ENVELOPE: sign_manifest(manifest, key)}
    for name, data in signed.items():
        write_whole(folder / name, data)
        digests[name] = hashlib.sha256(data).hexdigest()
    write_whole(folder / SUMS, sums_file(digests))
    for path in (folder, folder / WHEELS, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)  # hospitals' copies keep the modes
