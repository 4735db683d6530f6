"""Small offline bundles: real wheels of a few bytes, beside which all else is written as for a real one."""

import base64
import datetime as dt
import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from solblom_protocol.durable_file import write_whole
from solblom_protocol.offline.bundle import (
    ENVELOPE,
    MANIFEST,
    SUMS,
    BundleManifest,
    sign_manifest,
    sums_file,
    this_machine,
)
from solblom_protocol.offline.check import BundleVerdict, check_bundle
from solblom_server.offline.building import PARTS, Source, describe

NOW = dt.datetime(2026, 12, 1, 9, 0, tzinfo=dt.UTC)
OTHERS = {"torch": "2.13.0+cpu", "fancy-name": "1.0"}
SOURCE = Source(
    Path("nowhere"),
    "0.1.0",
    {name: v.partition("+")[0] for name, v in OTHERS.items()},
    ("parquet",),
)


def write_wheel(folder: Path, name: str, version: str, *, needs: tuple[str, ...] = ()) -> Path:
    """Write a wheel with one module; pip installs it."""
    word = name.replace("-", "_")
    info = f"{word}-{version}.dist-info"
    metadata = [
        "Metadata-Version: 2.4",
        f"Name: {name}",
        f"Version: {version}",
        "License-Expression: MIT",
        *(f"Requires-Dist: {need}" for need in needs),
    ]
    members = {
        f"{word}.py": f"NAME = {name!r}\n",
        f"{info}/METADATA": "\n".join(metadata) + "\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [f"{path},{_recorded(text)},{len(text)}" for path, text in members.items()]
    members[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,"]) + "\n"
    path = folder / f"{word}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in members.items():
            archive.writestr(member, text)
    return path


def _recorded(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256={base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


@dataclass
class LabBundle:
    """A bundle and the key that signed it."""

    folder: Path
    key: Ed25519PrivateKey

    @classmethod
    def make(cls, folder: Path) -> "LabBundle":
        wheels = folder / "wheels"
        wheels.mkdir(parents=True)
        for name, version in OTHERS.items():
            write_wheel(wheels, name, version)
        for part in PARTS:
            needs = ("torch==2.13.0", "fancy.name") if part == "models" else ()
            write_wheel(wheels, f"solblom-{part}", "0.1.0", needs=needs)
        made = cls(folder, Ed25519PrivateKey.generate())
        describe(SOURCE, folder, made.key, extras=(), now=NOW)
        return made

    @property
    def manifest(self) -> BundleManifest:
        return BundleManifest.model_validate_json((self.folder / MANIFEST).read_bytes())

    def check(self) -> BundleVerdict:
        return check_bundle(self.folder, self.key.public_key(), here=this_machine())

    def failed(self) -> list[str]:
        """Return the names of the checks that say no."""
        return [check.name for check in self.check().checks if not check.ok]

    def sign_again(self, *, key: Ed25519PrivateKey | None = None) -> None:
        """Write manifest and sums anew for the files as they are now: what a careless or hostile signer would do."""
        files = []
        for file in self.manifest.files:
            data = (self.folder / file.path).read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            files.append(file.model_copy(update={"sha256": digest, "size": len(data)}))
        manifest = self.manifest.model_copy(update={"files": tuple(files)})
        write_whole(self.folder / MANIFEST, manifest.payload())
        write_whole(self.folder / ENVELOPE, sign_manifest(manifest, key or self.key))
        digests = {file.path: file.sha256 for file in files}
        for name in (MANIFEST, ENVELOPE):
            digests[name] = hashlib.sha256((self.folder / name).read_bytes()).hexdigest()
        write_whole(self.folder / SUMS, sums_file(digests))

    def paths(self) -> list[str]:
        """Return the path of every file."""
        return sorted(
            str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file()
        )
