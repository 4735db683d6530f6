"""The coordinator's trust file: a change is the next version; what the verifier could not read is not written."""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from registry_lab import STEWARD, Registry
from solblom_protocol.keys.key_files import public_pem
from solblom_protocol.keys.public_keys import PublicKeys
from solblom_verify.envelope import key_id
from solblom_verify.trust import load_trust


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path)


def test_a_stewards_key_enters_with_its_dates_and_raises_the_threshold(registry: Registry) -> None:
    words = ["trust", "add-key", str(registry.steward_public), "--name", "Kari", "--threshold", "2"]
    dates = ["--from", "2026-01-01", "--until", "2028-01-01T12:00:00Z"]
    result = registry.operate(*words, *dates, "--json")
    assert json.loads(result.stdout)["version"] == 3
    trust = load_trust(registry.home / "trust.json")
    assert (trust.version, trust.threshold, len(trust.keys)) == (3, 2, 2)
    steward = next(key for key in trust.keys if key.role == "steward")
    assert steward.keyid == key_id(STEWARD.public_key())
    assert (steward.since is not None and steward.since.year, steward.until is not None) == (
        2026,
        True,
    )


@pytest.mark.parametrize("change", [["--threshold", "3"], ["--role", "hospital"], ["--name", ""]])
def test_a_trust_file_that_could_not_be_read_is_not_written(
    registry: Registry, change: list[str]
) -> None:
    before = (registry.home / "trust.json").read_bytes()
    words = ["trust", "add-key", str(registry.steward_public), "--name", "Kari", *change]
    result = registry.operate(*words)
    assert (result.exit_code, "SB-103" in result.stderr) == (3, True)
    assert (registry.home / "trust.json").read_bytes() == before


def test_a_key_that_only_seals_is_refused(registry: Registry, tmp_path: Path) -> None:
    path = tmp_path / "sealing.pem"
    path.write_text(public_pem(X25519PrivateKey.generate().public_key()))
    result = registry.operate("trust", "add-key", str(path), "--name", "Kari")
    assert (result.exit_code, "SB-109" in result.stderr) == (3, True)


def test_enrolled_hospitals_are_pinned_as_witnesses(registry: Registry) -> None:
    assert "SB-103" in registry.operate("trust", "pin-witnesses").stderr  # there are none
    for name in ("north", "south", "west"):
        keys = (Ed25519PrivateKey.generate(), X25519PrivateKey.generate())
        node = PublicKeys(name, keys[0].public_key(), keys[1].public_key())
        registry.coordinator.enrol(node)
    assert registry.operate("trust", "pin-witnesses").exit_code == 0
    trust = load_trust(registry.home / "trust.json")
    assert [witness.name for witness in trust.witnesses] == ["north", "south", "west"]
    assert trust.quorum is None
    assert registry.operate("trust", "pin-witnesses", "--quorum", "2").exit_code == 0
    trust = load_trust(registry.home / "trust.json")
    assert (trust.quorum, len(trust.witnesses)) == (2, 3)
    shown = registry.operate("trust", "show").stdout
    assert "version 4" in shown
    assert "witness" in shown
