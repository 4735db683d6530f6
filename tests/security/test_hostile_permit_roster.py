"""A permit of a secure sum names its hospitals, threshold and colluders: no puppet gets in (privacy.md rule 8)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from secure_lab import SITES, SecureLab
from security.observer import Observer
from security.permit_lab import JTI, LabIssuer, PermitLab
from solblom_protocol.errors import RefusedError
from solblom_protocol.messages.result import KeyReply, Refusal


@pytest.fixture
def labs(tmp_path: Path) -> tuple[SecureLab, PermitLab]:
    """Three hospitals with a secure sum; the one in the north approved it under a permit."""
    secure = SecureLab(tmp_path, study={"duo": ["DUO:0000027"]})
    hospital = secure.hospitals["north"]
    lab = PermitLab(Observer(hospital), LabIssuer(), secure.study)
    (hospital.folder / "issuer.pub").write_bytes(lab.issuer.public.to_bytes())
    lab.observer.edit_config(
        "[consent]", '[permit]\nrequired = true\nissuers = ["issuer.pub"]\n[consent]'
    )
    lab.publish()
    lab.approve(lab.honest(sites=SITES))
    return secure, lab


def ask_for_key(secure: SecureLab, lab: PermitLab, run: str = "lab-1") -> Any:
    order = secure.order("north", kind="keys", array=b"", layout=[], run=run)
    return lab.hospital.ask(order)


def test_a_permit_of_the_approved_roster_lets_a_node_give_its_mask_key(
    labs: tuple[SecureLab, PermitLab],
) -> None:
    assert isinstance(ask_for_key(*labs), KeyReply)


CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a-swapped-key": lambda s: s["roster"][0].update(key="1" * 64),
    "another-hospital": lambda s: s["roster"][0].update(site="puppet"),
    "one-hospital-more": lambda s: s["roster"].append({"site": "puppet", "key": "1" * 64}),
    "a-lower-threshold": lambda s: s.update(threshold=2),
    "more-colluders": lambda s: s.update(colluders=2),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_permit_for_another_roster_opens_nothing(
    labs: tuple[SecureLab, PermitLab], change: Callable[[dict[str, Any]], Any]
) -> None:
    secure, lab = labs
    claims = lab.issuer.claims(lab.study, lab.hospital, sites=SITES)
    change(claims["fl_permit"]["secure_sum"])
    permit = lab.issuer.sign(claims)
    with pytest.raises(RefusedError, match="other hospitals, threshold or colluders"):
        lab.approve(permit)
    lab.force(permit)
    reply = ask_for_key(secure, lab)
    assert isinstance(reply, Refusal)
    assert reply.code == "SB-217"
    lab.assert_logged("SB-217", "other hospitals, threshold or colluders")


def test_no_mask_key_is_given_under_a_revoked_permit(
    labs: tuple[SecureLab, PermitLab],
) -> None:
    secure, lab = labs
    lab.publish(JTI)
    reply = ask_for_key(secure, lab)
    assert isinstance(reply, Refusal)
    assert reply.code == "SB-218"
