"""A hostile coordinator against real vaults where hospitals may drop out: one sum of a round, or none."""

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from secure_lab import SecureLab
from solblom_client.approvals.approval import revoke
from solblom_protocol.messages.layout import Layout
from solblom_protocol.messages.order import RosterEntry
from solblom_protocol.messages.result import MaskReply, Refusal, Result
from solblom_protocol.messages.signing import sign_envelope
from solblom_protocol.sums.mask_setup import (
    SETUP_PAYLOAD_TYPE,
    DealtSetup,
    participants_of,
    read_dealt_setup,
)
from solblom_protocol.sums.run_sums import sum_at, sum_roster
from solblom_protocol.sums.survivors import SURVIVORS_PAYLOAD_TYPE, SurvivorSet, join_cosignatures
from solblom_server.rounds.rounds import initial_model
from solblom_verify.canonical import canonical_json, digest
from solblom_verify.envelope import key_id

FOUR = ("east", "north", "south", "west")
STUDY: dict[str, Any] = {
    "cohort": {"min_nodes": 4, "quorum": 3},
    "secure_sum": {"roster": "roster.json", "threshold": 3},
}


class DropoutLab(SecureLab):
    """Four hospitals of which three are enough, and the steps that an honest coordinator takes."""

    def paper(self, site: str, kind: str, masking: tuple[str, ...], **changes: Any) -> Any:
        """Ask one hospital for what it signs in a step."""
        values = {"kind": kind, "array": b"", "layout": Layout(()).to_json(), "masking": masking}
        return self.hospitals[site].ask(self.order(site, **(values | changes)))

    def papers(self, kind: str, masking: tuple[str, ...], **changes: Any) -> tuple[str, ...]:
        """Ask all hospitals."""
        found = []
        for site in FOUR:
            reply = self.paper(site, kind, masking, **changes)
            assert isinstance(reply, MaskReply), (site, kind, reply)
            found.append(reply.envelope.decode())
        return tuple(found)

    def dealt(self, setups: tuple[str, ...]) -> list[DealtSetup]:
        """Return the setups of round 1 that hospitals answered with."""
        roster = sum_roster(self.study, "lab-1")
        of = sum_at(self.study, roster, 1)
        return [read_dealt_setup(roster, of, answer.encode()) for answer in setups]

    def handed(self, setups: tuple[str, ...], site: str) -> tuple[str, ...]:
        """Return what an order for a vector carries to one hospital."""
        return tuple(setup.hand_to(site) for setup in self.dealt(setups))

    def vectors(self, setups: tuple[str, ...], **changes: Any) -> dict[str, bytes]:
        """Ask all hospitals for their masked vectors of round 1."""
        found = {}
        for site in FOUR:
            masking = self.handed(setups, site)
            reply = self.hospitals[site].ask(self.order(site, masking=masking, **changes))
            assert isinstance(reply, Result), reply
            found[site] = bytes(reply.update)
        return found

    def survivors(self, setups: tuple[str, ...], *names: str) -> SurvivorSet:
        """Return a survivor set of round 1, whoever is in it."""
        roster = sum_roster(self.study, "lab-1")
        of = sum_at(self.study, roster, 1)
        participants = participants_of(roster, of, self.dealt(setups))
        return SurvivorSet(
            schema="solblom.survivors/1",
            round=of,
            participants=participants.digest,
            base_model=digest(initial_model(self.study)[0]),
            survivors=sorted(names),
        )


@pytest.fixture
def lab(tmp_path: Path) -> DropoutLab:
    made = DropoutLab(tmp_path, sites=FOUR, **STUDY)
    made.approve()
    return made


@pytest.fixture
def setups(lab: DropoutLab) -> tuple[str, ...]:
    return lab.papers("setup", lab.papers("keys", ()))


def joined(*signatures: str) -> str:
    return join_cosignatures([signature.encode() for signature in signatures]).decode()


def text(chosen: SurvivorSet) -> str:
    return chosen.payload().decode()


def refused(
    lab: DropoutLab, reply: Any, code: str, *, site: str = "north", words: str = ""
) -> None:
    assert isinstance(reply, Refusal), reply
    assert reply.code == code
    log = (lab.hospitals[site].config.state / "log" / "vault.jsonl").read_text()
    assert words in log.splitlines()[-1]


def test_keys_setups_signatures_and_shares_charge_nothing(
    lab: DropoutLab, setups: tuple[str, ...]
) -> None:
    assert all(hospital.charges() == 0 for hospital in lab.hospitals.values())
    lab.vectors(setups)
    chosen = lab.survivors(setups, *FOUR)
    signatures = lab.papers("agree", (text(chosen),))
    lab.papers("open", (text(chosen), joined(*signatures)))
    assert all(hospital.charges() == 1 for hospital in lab.hospitals.values())


def test_a_second_survivor_set_is_refused(lab: DropoutLab, setups: tuple[str, ...]) -> None:
    lab.vectors(setups)
    first, second = (lab.survivors(setups, "east", "north", s) for s in ("south", "west"))
    assert isinstance(lab.paper("north", "agree", (text(first),)), MaskReply)
    refused(lab, lab.paper("north", "agree", (text(second),), attempt=2), "SB-207")
    assert isinstance(lab.paper("north", "agree", (text(first),), attempt=3), MaskReply)


def test_a_survivor_set_below_the_threshold_is_refused(
    lab: DropoutLab, setups: tuple[str, ...]
) -> None:
    lab.vectors(setups)
    small = lab.survivors(setups, "north", "west")
    refused(lab, lab.paper("north", "agree", (text(small),)), "SB-216")


def test_shares_stay_here_without_enough_signatures(
    lab: DropoutLab, setups: tuple[str, ...]
) -> None:
    lab.vectors(setups)
    chosen = lab.survivors(setups, *FOUR)
    signed = lab.papers("agree", (text(chosen),))
    forged = signed_by_a_stranger(chosen)
    two = signed[:2]
    for number, paper in enumerate(
        ["", joined(*two), joined(*two, signed[0]), joined(*two, forged), joined(*signed, forged)],
        start=1,
    ):
        reply = lab.paper("north", "open", (text(chosen), paper), attempt=number)
        refused(lab, reply, "SB-216")
    for number, papers in enumerate([(), (joined(*signed), "more")], start=7):
        reply = lab.paper("north", "open", (text(chosen), *papers), attempt=number)
        refused(lab, reply, "SB-202")
    good = (text(chosen), joined(*signed))
    assert isinstance(lab.paper("north", "open", good, attempt=9), MaskReply)


def signed_by_a_stranger(chosen: SurvivorSet) -> str:
    """Return a signature by a key that the roster does not have."""
    key = Ed25519PrivateKey.generate()
    return sign_envelope(chosen.payload(), SURVIVORS_PAYLOAD_TYPE, [key]).decode()


def test_a_swapped_share_key_is_refused(lab: DropoutLab) -> None:
    keys = lab.papers("keys", ())
    other = DropoutLab(lab.hospitals["east"].folder / "other", sites=FOUR, **STUDY)
    other.approve()
    swapped = (*keys[:3], other.papers("keys", ())[3])
    refused(lab, lab.paper("north", "setup", swapped), "SB-216", words="share key")


def test_another_list_of_setups_gets_no_second_vector(
    lab: DropoutLab, setups: tuple[str, ...]
) -> None:
    first = lab.vectors(setups)
    fewer = lab.handed(setups[:3], "north")
    again = lab.hospitals["north"].ask(lab.order("north", masking=fewer, attempt=2))
    assert isinstance(again, Result)
    assert bytes(again.update) == first["north"]  # the stored bytes, or nothing


def test_a_puppet_among_the_orders_hospitals_is_refused(lab: DropoutLab) -> None:
    puppet = RosterEntry(site="puppet", node=key_id(Ed25519PrivateKey.generate().public_key()))
    roster = sorted([*lab.entries, puppet], key=lambda entry: entry.site)
    refused(lab, lab.paper("north", "keys", (), roster=roster), "SB-216", words="puppet")


def test_a_survivor_set_of_another_sum_than_the_order_names_is_refused(
    lab: DropoutLab, setups: tuple[str, ...]
) -> None:
    lab.vectors(setups)
    chosen = lab.survivors(setups, *FOUR)
    refused(lab, lab.paper("north", "agree", (text(chosen),), round=2), "SB-216")


def test_steps_of_dropouts_are_unknown_to_a_study_without_them(tmp_path: Path) -> None:
    plain = SecureLab(tmp_path)
    plain.approve()
    values = {"kind": "agree", "array": b"", "layout": Layout(()).to_json()}
    reply = plain.hospitals["north"].ask(plain.order("north", **values))
    assert isinstance(reply, Refusal)
    assert reply.code == "SB-205"


def test_revoking_erases_the_runs_secrets(lab: DropoutLab, setups: tuple[str, ...]) -> None:
    revoke(lab.hospitals["north"].config, lab.study.digest)
    state = lab.hospitals["north"].vault._state
    assert state.query("SELECT share_key FROM mask_runs") == [(None,)]
    assert state.query("SELECT mask_key, self_seed FROM mask_setups") == [(None, None)]


def test_an_order_with_a_forged_setup_is_refused_before_anything_is_charged(
    lab: DropoutLab, setups: tuple[str, ...]
) -> None:
    north = lab.handed(setups, "north")
    bare = sign_envelope(b"{}", SETUP_PAYLOAD_TYPE, [Ed25519PrivateKey.generate()]).decode()
    forged = canonical_json({**json.loads(north[3]), "setup": bare}).decode()
    of_another = lab.handed(setups, "east")[3]  # the share of another hospital, with its proof
    posing = canonical_json(
        {**json.loads(north[3]), "share": json.loads(of_another)["share"]}
    ).decode()
    cases = [(), north[:2], setups, *((*north[:3], last) for last in (forged, of_another, posing))]
    for number, papers in enumerate(cases, start=1):
        reply = lab.hospitals["north"].ask(lab.order("north", masking=papers, attempt=number))
        refused(lab, reply, "SB-216")
    assert lab.hospitals["north"].charges() == 0
    assert len(lab.vectors(setups, attempt=9)) == 4
