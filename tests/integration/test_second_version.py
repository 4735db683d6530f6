"""Two runs of one name: the second model names the first, what changed, and the permit that the coordinator holds."""

import json
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from integration.federation import SITES, Federation, now
from solblom_models.study_document import resolve
from solblom_protocol.keys.key_files import read_signing_key
from solblom_protocol.permits.issuer import Issuer
from solblom_protocol.permits.issuing import Terms, permit_for
from solblom_protocol.permits.permit import sign_permit
from solblom_protocol.studies.study import sign_study
from solblom_verify.canonical import digest

KEY = Ed25519PrivateKey.from_private_bytes(bytes([7]) * 32)
ISSUER = Issuer.of("https://hdab.example.no", KEY.public_key())


def test_the_second_run_supersedes_the_first_and_keeps_the_permit(tmp_path: Path) -> None:
    federation = Federation(tmp_path, training={"rounds": 1})
    first = federation.start()
    tables = federation.document.study
    training = tables.training.model_copy(update={"learning_rate": 0.125})
    changed = tables.model_copy(update={"training": training})
    federation.document = resolve(changed, federation.document.contract)
    key = read_signing_key(federation.home / "researcher/researcher.key")
    federation.envelope = sign_study(federation.document, key)
    for site in SITES:
        federation.approve(site)
    terms = Terms(sites=SITES[:2], days=30, rounds=6, duo=("DUO:0000007=MONDO:0005267",))
    moment = int(now().timestamp())
    claims = permit_for(federation.document, terms, issuer=ISSUER.name, jti="permit-1", now=moment)
    permits = federation.home / "permits"
    (permits / "issuers").mkdir(parents=True)
    (permits / "issuers/hdab.pub").write_bytes(ISSUER.to_bytes())
    (permits / "one.jws").write_bytes(sign_permit(claims, KEY))
    second = federation.start()
    manifests = [json.loads((run.path / "manifest.json").read_bytes()) for run in (first, second)]
    assert manifests[0]["supersedes"] == []
    (entry,) = manifests[1]["supersedes"]
    assert (entry["artefact"], entry["version"]) == (first.digest, "v1")
    (change,) = entry["changes"]
    assert change.startswith("study.training.learning_rate: ")
    assert change.endswith(" → 0.125")
    index = json.loads((second.path / "permits/index.json").read_bytes())
    assert [(p["file"], p["sites"]) for p in index["permits"]] == [
        ("permits/permit-1.jws", sorted(SITES[:2]))
    ]
    assert set(index["missing"]) == {SITES[2]}
    kept = (second.path / "permits/permit-1.jws").read_bytes()
    assert digest(kept) == index["permits"][0]["digest"]
    assert second.digest != first.digest
