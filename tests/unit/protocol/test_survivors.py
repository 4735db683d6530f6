"""A survivor set counts once `threshold` of its members signed exactly it; a release fits one set and one sender."""

import json

import pytest

from solblom_protocol.errors import IntegrityError, RefusedError
from solblom_protocol.messages.signing import sign_envelope
from solblom_protocol.sums.mask_setup import SETUP_PAYLOAD_TYPE, DealtSetup, participants_of
from solblom_protocol.sums.survivors import (
    SURVIVORS_PAYLOAD_TYPE,
    MaskedWork,
    SurvivorSet,
    check_cosignatures,
    check_only_one,
    check_survivors,
    cosign_survivors,
    join_cosignatures,
    read_cosignature,
)
from solblom_protocol.sums.unmasking import (
    RELEASE_PAYLOAD_TYPE,
    ShareRelease,
    join_releases,
    read_release,
    write_release,
)
from solblom_verify.canonical import canonical_json
from sum_lab import MODEL, OTHER_MODEL, SumLab, signing_key, sum_roster

LAB = SumLab(sum_roster(5))
PARTICIPANTS = LAB.participants()
SITES = LAB.roster.sites
U = LAB.choose(PARTICIPANTS, SITES[:4])
WORK = MaskedWork(LAB.of, PARTICIPANTS.digest, MODEL, SITES)
AGREED = LAB.agree(U, SITES[:4])


def changed(**members: object) -> SurvivorSet:
    return U.model_copy(update=members)


def test_a_set_that_enough_members_signed_is_agreed() -> None:
    check_survivors(LAB.roster, U, masked=WORK)
    assert AGREED.cosigners == SITES[:4]


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (changed(survivors=["h00", "h01", "h02"]), "3 hospitals survived, 4.*missing: h03, h04"),
        (changed(survivors=["h00", "h01", "h02", "puppet"]), "without a mask setup: puppet"),
        (changed(survivors=["h00", "h00", "h01", "h02"]), "twice"),
        (changed(survivors=["h01", "h00", "h02", "h03"]), "not sorted"),
        (changed(participants="sha256:" + "0" * 64), "other mask setups"),
        (changed(base_model=OTHER_MODEL), "another base model"),
        (changed(round=LAB.of.model_copy(update={"attempt": 2})), "another sum: attempt"),
        (changed(round=LAB.of.model_copy(update={"kind": "evaluate"})), "another sum: kind"),
        (changed(round=LAB.of.model_copy(update={"run": "run-2"})), "not one of the run run-1"),
    ],
)
def test_a_set_that_does_not_fit_what_was_masked_is_refused(
    asked: SurvivorSet, reason: str
) -> None:
    with pytest.raises(IntegrityError, match=reason) as caught:
        check_survivors(LAB.roster, asked, masked=WORK)
    assert caught.value.code == "SB-404"


@pytest.mark.parametrize(
    "second",
    [
        changed(survivors=list(SITES)),
        changed(base_model=OTHER_MODEL),
        changed(round=LAB.of.model_copy(update={"attempt": 2})),
    ],
)
def test_second_survivor_set_is_refused(second: SurvivorSet) -> None:
    check_only_one(U, recorded=None)
    check_only_one(U, recorded=U)
    with pytest.raises(RefusedError, match="has a survivor set already") as caught:
        check_only_one(second, recorded=U)
    assert caught.value.code == "SB-207"


def test_one_cosignature_too_few_is_refused_also_with_a_duplicate() -> None:
    three = [LAB.cosign(U, site) for site in SITES[:3]]
    with pytest.raises(IntegrityError, match=r"3 hospitals signed.*4 are needed; missing: h03"):
        check_cosignatures(LAB.roster, U, join_cosignatures(three))
    with pytest.raises(IntegrityError, match=r"3 hospitals signed.*missing: h03"):
        check_cosignatures(LAB.roster, U, join_cosignatures([*three, three[2]]))
    doubled = json.loads(join_cosignatures(three))
    doubled["signatures"].append(doubled["signatures"][-1])
    with pytest.raises(IntegrityError, match="each once") as caught:
        check_cosignatures(LAB.roster, U, canonical_json(doubled))
    assert caught.value.code == "SB-405"


def test_a_forged_cosignature_is_refused() -> None:
    puppet = sign_envelope(U.payload(), SURVIVORS_PAYLOAD_TYPE, [signing_key("puppet")])
    whole = LAB.cosign(U, "h03")
    changed_byte = whole[:-20] + bytes([whole[-20] ^ 1]) + whole[-19:]
    both = sign_envelope(
        U.payload(), SURVIVORS_PAYLOAD_TYPE, [signing_key("h02"), signing_key("h03")]
    )
    three = [LAB.cosign(U, site) for site in SITES[:3]]
    for forged in (puppet, changed_byte, both, b"", b"{}"):
        with pytest.raises(IntegrityError, match="A cosignature") as caught:
            read_cosignature(LAB.roster, U, forged)
        assert caught.value.code == "SB-405"
    for forged in (puppet, changed_byte):  # one false signature among enough good ones
        with pytest.raises(IntegrityError, match="A cosignature") as caught:
            check_cosignatures(
                LAB.roster,
                U,
                join_cosignatures([*three, LAB.cosign(U, "h03"), forged])
                if forged is puppet
                else join_cosignatures([*three, forged]),
            )
        assert caught.value.code == "SB-405"
    for papers in (b"", b"{}"):
        with pytest.raises(IntegrityError, match="A cosignature"):
            check_cosignatures(LAB.roster, U, papers)


def test_a_signature_for_another_purpose_is_no_cosignature() -> None:
    setup = sign_envelope(U.payload(), SETUP_PAYLOAD_TYPE, [signing_key("h03")])
    with pytest.raises(IntegrityError, match="payload type"):
        check_cosignatures(LAB.roster, U, setup)


def test_a_cosignature_on_another_set_names_its_signer() -> None:
    everybody = LAB.choose(PARTICIPANTS, SITES)
    with pytest.raises(IntegrityError, match="h03 signed another survivor set"):
        read_cosignature(LAB.roster, U, LAB.cosign(everybody, "h03"))
    mixed = [*(LAB.cosign(U, site) for site in SITES[:3]), LAB.cosign(everybody, "h03")]
    with pytest.raises(IntegrityError, match="not of one survivor set"):
        join_cosignatures(mixed)
    others = join_cosignatures([LAB.cosign(everybody, site) for site in SITES])
    with pytest.raises(IntegrityError, match="signed another survivor set"):
        check_cosignatures(LAB.roster, U, others)


def test_a_hospital_outside_the_set_neither_signs_nor_counts() -> None:
    with pytest.raises(IntegrityError, match="h04 is not in the survivor set"):
        cosign_survivors(LAB.roster, U, site="h04", signing_key=signing_key("h04"))
    outside = sign_envelope(U.payload(), SURVIVORS_PAYLOAD_TYPE, [signing_key("h04")])
    with pytest.raises(IntegrityError, match="h04 signed a survivor set that it is not in"):
        read_cosignature(LAB.roster, U, outside)
    with pytest.raises(IntegrityError, match="h04 signed a survivor set that it is not in"):
        check_cosignatures(
            LAB.roster, U, join_cosignatures([outside, *(LAB.cosign(U, s) for s in SITES[:4])])
        )


def test_a_set_below_the_threshold_is_not_agreed_whoever_signs() -> None:
    few = LAB.choose(PARTICIPANTS, SITES[:3])
    signed = [LAB.cosign(few, site) for site in SITES[:3]]
    with pytest.raises(IntegrityError, match="3 hospitals survived, 4 are needed"):
        check_cosignatures(LAB.roster, few, join_cosignatures(signed))


def resigned(release: ShareRelease, signer: str) -> bytes:
    return sign_envelope(release.payload(), RELEASE_PAYLOAD_TYPE, [signing_key(signer)])


def release_of(site: str) -> ShareRelease:
    return read_release(LAB.roster, PARTICIPANTS, AGREED, LAB.release(PARTICIPANTS, AGREED, site))


def test_a_wrong_share_names_who_sent_it() -> None:
    release = release_of("h02")
    for kind, wrong in (
        ("seed", {"seeds": {**release.seeds, "h00": "0" * 34}}),
        ("key", {"keys": {"h04": "0" * 34}}),
        ("seed", {"seeds": {**release.seeds, "h00": release.keys["h04"]}}),
        ("seed", {"seeds": {**release.seeds, "h00": release.seeds["h01"]}}),
    ):
        with pytest.raises(IntegrityError, match=f"h02 released another {kind} share of h0"):
            read_release(
                LAB.roster,
                PARTICIPANTS,
                AGREED,
                resigned(release.model_copy(update=wrong), "h02"),
            )


@pytest.mark.parametrize(
    "lab",
    [
        SumLab(LAB.roster, number=2),
        SumLab(LAB.roster, attempt=2),
        SumLab(LAB.roster, kind="evaluate"),
        SumLab(sum_roster(5, run="run-2")),
    ],
    ids=["round", "attempt", "kind", "run"],
)
def test_a_replayed_share_names_who_sent_it(lab: SumLab) -> None:
    """Once as the release that was made for the other sum, once with its shares under this sum's name."""
    participants = lab.participants()
    agreed = lab.agree(lab.choose(participants, SITES[:4]), SITES[:4])
    envelope = lab.release(participants, agreed, "h01")
    with pytest.raises(IntegrityError, match="release of h01 is of another sum"):
        read_release(LAB.roster, PARTICIPANTS, AGREED, envelope)
    replayed = read_release(lab.roster, participants, agreed, envelope).model_copy(
        update={"round": LAB.of, "survivors": U.digest}
    )
    with pytest.raises(IntegrityError, match="h01 released another seed share of h00"):
        read_release(LAB.roster, PARTICIPANTS, AGREED, resigned(replayed, "h01"))


def test_another_hospitals_share_is_not_ones_own() -> None:
    release = release_of("h02")
    with pytest.raises(IntegrityError, match="h03 signed a release of h02"):
        read_release(LAB.roster, PARTICIPANTS, AGREED, resigned(release, "h03"))
    copied = release.model_copy(update={"site": "h03"})
    with pytest.raises(IntegrityError, match="h03 released another seed share of h00"):
        read_release(LAB.roster, PARTICIPANTS, AGREED, resigned(copied, "h03"))


def test_a_release_for_another_set_or_of_other_shares_names_its_sender() -> None:
    everybody = LAB.agree(LAB.choose(PARTICIPANTS, SITES), SITES)
    with pytest.raises(IntegrityError, match="release of h00 is for another survivor set"):
        read_release(LAB.roster, PARTICIPANTS, AGREED, LAB.release(PARTICIPANTS, everybody, "h00"))
    release = release_of("h00")
    both = release.model_copy(update={"keys": {**release.keys, "h01": "0" * 34}})
    fewer = release.model_copy(update={"keys": {}})
    no_seed = release.model_copy(update={"seeds": {"h00": release.seeds["h00"]}})
    seed_too = release.model_copy(update={"seeds": {**release.seeds, "h04": "0" * 34}})
    for wrong in (both, fewer, no_seed, seed_too):
        with pytest.raises(IntegrityError, match="h00 released other shares"):
            read_release(LAB.roster, PARTICIPANTS, AGREED, resigned(wrong, "h00"))


def test_no_release_is_written_with_both_shares_of_one_hospital() -> None:
    seeds = dict.fromkeys(SITES[:4], b"s" * 17)
    for wrong_seeds, keys in (
        (seeds, {"h03": b"k" * 17, "h04": b"k" * 17}),
        ({**seeds, "h04": b"s" * 17}, {"h04": b"k" * 17}),
    ):
        with pytest.raises(IntegrityError, match="seeds of survivors and keys of others only"):
            write_release(
                LAB.roster,
                AGREED,
                site="h00",
                seeds=wrong_seeds,
                keys=keys,
                signing_key=signing_key("h00"),
            )


def test_two_releases_of_one_hospital_count_once() -> None:
    releases = [release_of(site) for site in ("h00", "h01", "h02", "h02")]
    with pytest.raises(IntegrityError, match="twice"):
        join_releases(LAB.roster, PARTICIPANTS, AGREED, releases)


@pytest.mark.parametrize(("owner", "what"), [("h00", "self seed"), ("h04", "mask key")])
def test_shares_that_do_not_fit_the_setup_name_who_dealt_them(owner: str, what: str) -> None:
    """The owner commits to one secret and deals shares of another: only the joined secret shows it."""
    setup = PARTICIPANTS.setups[owner]
    false = (
        setup.model_copy(update={"seed": MODEL})
        if owner == "h00"
        else setup.model_copy(update={"mask_key": PARTICIPANTS.setups["h00"].mask_key})
    )
    honest = LAB.dealt(owner)
    signed = sign_envelope(false.payload(), SETUP_PAYLOAD_TYPE, [signing_key(owner)]).decode()
    dealt = [LAB.dealt(site) for site in SITES if site != owner]
    participants = participants_of(
        LAB.roster, LAB.of, [*dealt, DealtSetup(false, signed, honest.shares)]
    )
    agreed = LAB.agree(LAB.choose(participants, SITES[:4]), SITES[:4])
    releases = LAB.releases(participants, agreed, SITES[:4])
    with pytest.raises(IntegrityError, match=f"{owner} dealt shares of another {what}"):
        join_releases(LAB.roster, participants, agreed, releases)
