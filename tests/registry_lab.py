"""A coordinator's registry with logged models that nobody trained: real keys, real log, real files, no patients."""

import contextlib
import datetime as dt
import shutil
from pathlib import Path
from typing import Any

from click.testing import Result
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from solblom_protocol.keys.key_files import private_pem, public_pem
from solblom_protocol.logs.cosignature import cosign, read_cosignature
from solblom_server import trust_file
from solblom_server.commands import coordinator as coordinator_cli
from solblom_server.commands import model as model_cli
from solblom_server.coordinator import Coordinator, create_coordinator
from solblom_server.log.files import register_model, write_log_files
from solblom_verify.artefact import Verdict, verify_artefact
from solblom_verify.canonical import file_digest
from solblom_verify.trust import load_trust
from unit.verify.artefact_builder import ArtefactBuilder

NOW = dt.datetime(2026, 11, 22, 21, 0, 0, tzinfo=dt.UTC)
STEWARD = Ed25519PrivateKey.from_private_bytes(b"s" * 32)


class Registry:
    """A home with a coordinator and its steward; `add` registers another version of heart-disease."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.folder = folder
        create_coordinator(self.home, name="lab", entropy=_entropy)
        self.coordinator = Coordinator.open(self.home)
        self.steward = folder / "steward.key"
        self.steward.write_bytes(private_pem(STEWARD))
        self.steward_public = folder / "steward.pem"
        self.steward_public.write_text(public_pem(STEWARD.public_key()))
        trust_file.add_key(self.home, STEWARD.public_key(), name="Kari", role="steward")
        self.sites: dict[str, Ed25519PrivateKey] = {}

    def add(self, version: int = 1) -> Path:
        """Register a version that the coordinator signed and its hospitals cosigned."""
        builder = ArtefactBuilder()
        self.sites, builder.coordinator = builder.site_keys, self.coordinator.signing
        builder.signers = [self.coordinator.signing]
        with contextlib.closing(self.coordinator.log()) as log:
            origin = log.origin

        def edit(manifest: dict[str, Any]) -> None:
            manifest.update(version=f"v{version}", log={"origin": origin})

        builder.edit_manifest = edit
        written = builder.write(self.folder / f"made-{version}")
        folder = self.home / "models" / f"heart-disease-v{version}"
        shutil.copytree(written, folder)
        database = self.coordinator.database()
        database.reserve_version("heart-disease", f"run-{version}", now=NOW)
        database.set_model_digest(f"run-{version}", file_digest(folder / "manifest.json")[0])
        database.close()
        with contextlib.closing(self.coordinator.log()) as log:
            register_model(folder, log, now=NOW)
        self.cosign(folder)
        return folder

    def cosign(self, folder: Path) -> None:
        """Let every hospital cosign the newest head, and write the model's log/ anew."""
        seconds = int(dt.datetime.now(dt.UTC).timestamp())
        with contextlib.closing(self.coordinator.log()) as log:
            note = log.note(log.size())
            for site, key in self.sites.items():
                line = cosign(note, site, key, time=seconds)
                log.add_cosignature(
                    log.size(), read_cosignature(note, line, site, key.public_key())
                )
            write_log_files(folder, log, file_digest(folder / "manifest.json")[0])

    def verify(self, folder: Path) -> Verdict:
        """Verify with the home's trust file."""
        trust = load_trust(self.home / "trust.json")
        return verify_artefact(folder, trust, now=dt.datetime.now(dt.UTC))

    def model(self, *words: str) -> Result:
        """Run a command of `solblom model` that the server part offers."""
        return CliRunner().invoke(model_cli.app, [*words, "--home", str(self.home)])

    def decide(self, verb: str, ref: str, *words: str, key: Path | None = None) -> Result:
        """Promote or withdraw as the steward, without asking hospitals."""
        signed = ["--key", str(key or self.steward), "--no-cosign"]
        why = [] if "--reason" in words else ["--reason", "because"]
        return self.model(verb, ref, *words, *why, *signed)

    def operate(self, *words: str) -> Result:
        """Run a command of `solblom coordinator`."""
        return CliRunner().invoke(coordinator_cli.app, [*words, "--home", str(self.home)])


def _entropy(label: str) -> bytes:
    return label.encode().ljust(32, b"0")[:32]
