"""openssl and a shell check a statement and a receipt, with the commands of docs/how-to/verify-a-model.md."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from solblom_verify.canonical import canonical_json
from solblom_verify.envelope import public_key_to_pem

PAGE = Path(__file__).parents[3] / "docs/how-to/verify-a-model.md"
TOOLS = ("openssl", "sed", "base64", "bash")
MISSING = [tool for tool in TOOLS if shutil.which(tool) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")


def commands() -> str:
    """The page's script: the block that begins with its first comment."""
    page = PAGE.read_text(encoding="utf-8")
    found = re.search(r"```sh\n(# check-envelope.*?)```", page, re.S)
    assert found is not None
    return found[1]


def check(folder: Path, envelope: Path, pem: Path, keyid: str) -> subprocess.CompletedProcess[str]:
    script = folder / "check-envelope.sh"
    script.write_text(commands(), encoding="utf-8")
    words = ["bash", str(script), str(envelope), str(pem), keyid]
    return subprocess.run(words, capture_output=True, text=True, cwd=folder, check=False)


@pytest.mark.parametrize(
    "name", ["attestations/model.dsse.json", "training/receipts/001-st-olavs.dsse.json"]
)
def test_openssl_alone_verifies_a_statement_and_a_receipt(
    builder: Any, artefact: Path, tmp_path: Path, name: str
) -> None:
    key = builder.coordinator if name.startswith("attest") else builder.site_keys["st-olavs"]
    pem = tmp_path / "key.pem"
    pem.write_text(public_key_to_pem(key.public_key()), encoding="ascii")
    envelope = artefact / name
    keyids = [s["keyid"] for s in json.loads(envelope.read_bytes())["signatures"]]
    der = subprocess.run(
        ["openssl", "pkey", "-pubin", "-in", pem, "-outform", "DER"],
        capture_output=True,
        check=True,
    )
    digest = subprocess.run(
        ["openssl", "dgst", "-sha256", "-r"], input=der.stdout, capture_output=True, check=True
    )
    keyid = digest.stdout.split()[0].decode()
    assert keyid in keyids
    result = check(tmp_path, envelope, pem, keyid)
    assert result.returncode == 0, result.stderr
    assert "Signature Verified Successfully" in result.stdout


@pytest.mark.parametrize("member", ["payload", "payloadType", "sig"])
def test_openssl_refuses_what_was_changed(
    builder: Any, artefact: Path, tmp_path: Path, member: str
) -> None:
    pem = tmp_path / "key.pem"
    pem.write_text(public_key_to_pem(builder.coordinator.public_key()), encoding="ascii")
    envelope = json.loads((artefact / "attestations/model.dsse.json").read_bytes())
    place = envelope["signatures"][0] if member == "sig" else envelope
    place[member] = ("B" if place[member][0] != "B" else "C") + place[member][1:]
    changed = tmp_path / "changed.json"
    changed.write_bytes(canonical_json(envelope))
    result = check(tmp_path, changed, pem, envelope["signatures"][0]["keyid"])
    assert result.returncode != 0
    assert "Signature Verified Successfully" not in result.stdout
