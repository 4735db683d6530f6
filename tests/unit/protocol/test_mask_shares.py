"""A share opens for its recipient and its sum alone; a setup is one hospital's, and its shares are checked."""

import base64
from itertools import combinations

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from solblom_protocol.errors import ConfigurationError, IntegrityError
from solblom_protocol.mask_setup import (
    SETUP_PAYLOAD_TYPE,
    SHARE_KEY_PAYLOAD_TYPE,
    MaskSetup,
    read_dealt_share,
    read_participants,
    read_setup,
    read_share_keys,
    write_setup,
    write_share_key,
)
from solblom_protocol.mask_shares import (
    ShareKind,
    SharePair,
    join_secret,
    seal_share,
    seed_commitment,
    share_commitment,
    split_secret,
    unseal_share,
)
from solblom_protocol.seal import unseal
from solblom_protocol.sum_roster import SumRoster, SumRound
from solblom_verify.envelope import sign_envelope
from sum_lab import STUDY, SumLab, secrets_of, share_key, signing_key, site_names, sum_roster

PAIR = SharePair(b"k" * 32, b"s" * 32)
LAB = SumLab(sum_roster(4))


def refusal(error: pytest.ExceptionInfo[IntegrityError]) -> tuple[str, str]:
    return error.value.code, error.value.message


@pytest.mark.parametrize(("threshold", "count"), [(2, 3), (3, 4), (4, 5), (5, 5)])
def test_any_threshold_of_shares_gives_the_secret_and_fewer_do_not(
    threshold: int, count: int
) -> None:
    secret = bytes(range(32))
    shares = dict(enumerate(split_secret(secret, threshold=threshold, count=count), start=1))
    for points in combinations(shares, threshold):
        assert join_secret({p: shares[p] for p in points}, threshold=threshold) == secret
    assert join_secret(shares, threshold=threshold) == secret
    for points in combinations(shares, threshold - 1):
        few = {p: shares[p] for p in points}
        with pytest.raises(ValueError, match="needs"):
            join_secret(few, threshold=threshold)


def test_fewer_shares_than_the_threshold_fit_every_secret() -> None:
    """With t - 1 shares fixed, another t-th share gives another secret: all of them remain possible."""
    shares = dict(enumerate(split_secret(bytes(32), threshold=3, count=3), start=1))
    seen = {join_secret({**shares, 3: bytes([n]) * 32}, threshold=3) for n in range(256)}
    assert len(seen) == 256


@pytest.mark.parametrize(
    ("secret", "threshold", "count"), [(b"x" * 31, 2, 3), (b"x" * 32, 1, 3), (b"x" * 32, 4, 3)]
)
def test_a_split_that_hides_nothing_or_cannot_be_joined_is_refused(
    secret: bytes, threshold: int, count: int
) -> None:
    with pytest.raises(ValueError, match="threshold"):
        split_secret(secret, threshold=threshold, count=count)


@pytest.mark.parametrize("shares", [{0: b"x" * 32, 1: b"x" * 32}, {1: b"x" * 31, 2: b"x" * 32}])
def test_a_share_at_point_zero_or_of_another_length_is_refused(shares: dict[int, bytes]) -> None:
    with pytest.raises(ValueError, match="shares of 32 bytes"):
        join_secret(shares, threshold=2)


def test_a_share_opens_for_its_recipient() -> None:
    sealed = seal_share(
        PAIR, LAB.of, owner="h00", recipient="h01", key=share_key("h01").public_key()
    )
    assert unseal_share(sealed, LAB.of, owner="h00", recipient="h01", key=share_key("h01")) == PAIR
    with pytest.raises(IntegrityError, match="The share of h00 for h01"):
        unseal_share(sealed, LAB.of, owner="h00", recipient="h01", key=share_key("h02"))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"run": "run-2"}, "run"),
        ({"number": 2}, "number"),
        ({"attempt": 2}, "attempt"),
        ({"kind": "evaluate"}, "kind"),
        ({"roster": STUDY}, "roster"),
    ],
)
def test_a_share_of_another_sum_is_refused_by_name(change: dict[str, object], named: str) -> None:
    other = SumRound(**{**LAB.of.model_dump(), **change})
    key = share_key("h01")
    sealed = seal_share(PAIR, other, owner="h00", recipient="h01", key=key.public_key())
    with pytest.raises(IntegrityError) as caught:
        unseal_share(sealed, LAB.of, owner="h00", recipient="h01", key=key)
    assert refusal(caught) == (
        "SB-404",
        f"The share of h00 for h01 is of another sum: {named}",
    )


def test_a_share_of_another_owner_or_recipient_is_refused_by_name() -> None:
    key = share_key("h01")
    sealed = seal_share(PAIR, LAB.of, owner="h00", recipient="h01", key=key.public_key())
    with pytest.raises(IntegrityError, match="share of h02 for h01 is a share of h00"):
        unseal_share(sealed, LAB.of, owner="h02", recipient="h01", key=key)
    with pytest.raises(IntegrityError, match="share of h00 for h03 was made for h01"):
        unseal_share(sealed, LAB.of, owner="h00", recipient="h03", key=key)


def test_a_commitment_is_to_one_share_of_one_kind_owner_recipient_and_sum() -> None:
    def commitment(
        of: SumRound = LAB.of,
        owner: str = "h00",
        recipient: str = "h01",
        kind: ShareKind = "key",
        share: bytes = b"x" * 32,
    ) -> str:
        return share_commitment(of, owner=owner, recipient=recipient, kind=kind, share=share)

    found = [
        commitment(),
        commitment(of=LAB.of.model_copy(update={"number": 2})),
        commitment(owner="h02"),
        commitment(recipient="h02"),
        commitment(kind="seed"),
        commitment(share=b"y" * 32),
        seed_commitment(LAB.of, owner="h00", seed=b"x" * 32),
        seed_commitment(LAB.of, owner="h02", seed=b"x" * 32),
        seed_commitment(LAB.of.model_copy(update={"attempt": 2}), owner="h00", seed=b"x" * 32),
    ]
    assert len(set(found)) == len(found)


def test_a_sealed_share_is_no_order_and_no_reply() -> None:
    key = share_key("h01")
    sealed = seal_share(PAIR, LAB.of, owner="h00", recipient="h01", key=key.public_key())
    for kind in ("order", "reply"):
        with pytest.raises(IntegrityError, match="another kind"):
            unseal(sealed, kind=kind, key=key)  # type: ignore[arg-type]


def test_secrets_and_shares_are_not_shown_in_a_log_line() -> None:
    secrets = secrets_of("h00", LAB.of)
    assert secrets.self_seed.hex() not in repr(secrets)
    assert repr(PAIR) == "SharePair()"


def test_every_hospital_opens_the_share_that_a_setup_deals_to_it() -> None:
    setup = read_setup(LAB.roster, LAB.of, LAB.setups["h00"])
    dealt = {
        site: read_dealt_share(setup, recipient=site, key=share_key(site))
        for site in LAB.roster.sites
    }
    joined = join_secret(
        {LAB.roster.index(site): pair.key for site, pair in dealt.items()}, threshold=3
    )
    assert joined == secrets_of("h00", LAB.of).mask_key.private_bytes_raw()


def signed(setup: MaskSetup, signer: str) -> bytes:
    return sign_envelope(setup.payload(), SETUP_PAYLOAD_TYPE, [signing_key(signer)])


def test_a_swapped_mask_key_breaks_the_signature() -> None:
    setup = read_setup(LAB.roster, LAB.of, LAB.setups["h01"])
    swapped = setup.model_copy(update={"mask_key": "11" * 32})
    envelope = LAB.setups["h01"].replace(
        base64.b64encode(setup.payload()), base64.b64encode(swapped.payload())
    )
    assert envelope != LAB.setups["h01"]
    with pytest.raises(IntegrityError, match="signature") as caught:
        read_setup(LAB.roster, LAB.of, envelope)
    assert caught.value.code == "SB-405"


def test_a_swapped_mask_key_that_a_colluder_signs_is_refused_by_name() -> None:
    setup = read_setup(LAB.roster, LAB.of, LAB.setups["h01"])
    swapped = setup.model_copy(update={"mask_key": "11" * 32})
    with pytest.raises(IntegrityError, match="h03 signed a mask setup of h01"):
        read_setup(LAB.roster, LAB.of, signed(swapped, "h03"))


def test_a_puppet_beside_the_roster_is_refused() -> None:
    setup = read_setup(LAB.roster, LAB.of, LAB.setups["h01"])
    puppet = setup.model_copy(update={"site": "puppet"})
    for envelope in (signed(puppet, "puppet"), signed(setup, "puppet")):
        with pytest.raises(IntegrityError, match="not trusted here") as caught:
            read_participants(LAB.roster, LAB.of, [*LAB.setups.values(), envelope])
        assert caught.value.code == "SB-405"
    with pytest.raises(IntegrityError, match="h00 signed a mask setup of puppet"):
        read_setup(LAB.roster, LAB.of, signed(puppet, "h00"))


def test_a_setup_of_another_sum_is_refused_by_name() -> None:
    for number, attempt, named in ((2, 1, "number"), (1, 2, "attempt")):
        other = SumLab(LAB.roster, number=number, attempt=attempt)
        with pytest.raises(IntegrityError, match=f"setup of h01 is of another sum: {named}"):
            read_setup(LAB.roster, LAB.of, other.setups["h01"])


def test_a_sum_of_another_run_or_roster_is_refused() -> None:
    """What a node remembers is filed under the run, so a false name would be a second memory."""
    for change in ({"run": "run-2"}, {"roster": STUDY}):
        other = LAB.of.model_copy(update=change)
        with pytest.raises(IntegrityError, match="not one of the run run-1"):
            write_setup(
                LAB.roster,
                other,
                site="h00",
                secrets=secrets_of("h00", LAB.of),
                share_keys=read_share_keys(LAB.roster, LAB.share_keys),
                signing_key=signing_key("h00"),
            )
        with pytest.raises(IntegrityError, match="not one of the run run-1"):
            read_setup(LAB.roster, other, LAB.setups["h00"])


def test_two_setups_of_one_hospital_are_refused_by_name() -> None:
    with pytest.raises(IntegrityError, match="h01 has two mask setups"):
        read_participants(LAB.roster, LAB.of, [*LAB.setups.values(), LAB.setups["h01"]])


def test_a_setup_without_a_share_for_each_hospital_is_refused_by_name() -> None:
    setup = read_setup(LAB.roster, LAB.of, LAB.setups["h01"])
    for shares in (setup.shares[1:], [*setup.shares, setup.shares[0]], setup.shares[::-1]):
        wrong = signed(setup.model_copy(update={"shares": shares}), "h01")
        with pytest.raises(IntegrityError, match="h01 has not one share for each hospital"):
            read_setup(LAB.roster, LAB.of, wrong)


def test_a_share_other_than_the_committed_one_names_its_owner() -> None:
    setup = read_setup(LAB.roster, LAB.of, LAB.setups["h01"])
    key = share_key("h02")
    sealed = seal_share(PAIR, LAB.of, owner="h01", recipient="h02", key=key.public_key())
    shares = [
        share.model_copy(update={"sealed": base64.b64encode(sealed).decode()})
        if share.recipient == "h02"
        else share
        for share in setup.shares
    ]
    wrong = setup.model_copy(update={"shares": shares})
    with pytest.raises(IntegrityError, match="h01 dealt h02 another share") as caught:
        read_dealt_share(wrong, recipient="h02", key=key)
    assert caught.value.code == "SB-405"


def test_another_hospitals_shares_passed_off_as_ones_own_are_refused_by_name() -> None:
    """Else the others would release the key share of h00 as h03's, and the seed share as h00's."""
    honest = read_setup(LAB.roster, LAB.of, LAB.setups["h00"])
    copied = honest.model_copy(update={"site": "h03"})
    setup = read_setup(LAB.roster, LAB.of, signed(copied, "h03"))
    with pytest.raises(IntegrityError, match="share of h03 for h01 is a share of h00"):
        read_dealt_share(setup, recipient="h01", key=share_key("h01"))


def test_share_keys_are_the_rosters_and_each_hospitals_own() -> None:
    roster = LAB.roster
    keys = read_share_keys(roster, LAB.share_keys)
    assert list(keys) == list(roster.sites)
    with pytest.raises(IntegrityError, match="No share key of h03"):
        read_share_keys(roster, LAB.share_keys[:3])
    with pytest.raises(IntegrityError, match="h00 has two share keys"):
        read_share_keys(roster, [*LAB.share_keys, LAB.share_keys[0]])
    of_another_run = SumLab(sum_roster(4, run="run-2")).share_keys
    with pytest.raises(IntegrityError, match="share key of h00 is of another run"):
        read_share_keys(roster, of_another_run)
    forged = sign_envelope(b'{"site":"h00"}', SHARE_KEY_PAYLOAD_TYPE, [signing_key("puppet")])
    with pytest.raises(IntegrityError, match="not trusted here"):
        read_share_keys(roster, [forged])
    with pytest.raises(IntegrityError, match="h00 stands in the roster with another key"):
        write_share_key(
            roster,
            X25519PrivateKey.generate().public_key(),
            site="h00",
            signing_key=signing_key("h01"),
        )


def roster_of(count: int, threshold: int, colluders: int) -> SumRoster:
    nodes = {site: signing_key(site).public_key() for site in site_names(count)}
    return SumRoster(STUDY, "run-1", nodes, threshold, colluders)


@pytest.mark.parametrize(
    ("count", "threshold", "colluders", "reason"),
    [
        (4, 2, 1, "two survivor sets"),
        (5, 3, 1, "two survivor sets"),  # 2 · 3 = 5 + 1
        (20, 10, 1, "two survivor sets"),
        (4, 5, 1, "cannot need 5"),
        (4, 3, 0, "at least one colluder"),
        (2, 2, 1, "what one hospital sent"),
        (3, 3, 2, "what one hospital sent"),
        (0, 0, 1, "two survivor sets"),
    ],
)
def test_limits_under_which_a_second_set_or_one_vector_opens_are_refused(
    count: int, threshold: int, colluders: int, reason: str
) -> None:
    with pytest.raises(ConfigurationError, match=reason) as caught:
        roster_of(count, threshold, colluders)
    assert caught.value.code == "SB-103"


def test_one_key_under_two_names_is_refused() -> None:
    """It would sign twice and count twice towards the threshold."""
    nodes = {site: signing_key("h00").public_key() for site in site_names(4)}
    with pytest.raises(ConfigurationError, match="one signing key"):
        SumRoster(STUDY, "run-1", nodes, 3, 1)


def test_a_roster_is_named_by_all_that_it_says() -> None:
    nodes = {site: signing_key(site).public_key() for site in site_names(6)}
    swapped = {**nodes, "h01": signing_key("puppet").public_key()}
    rosters = [
        SumRoster(STUDY, "run-1", nodes, 5, 1),
        SumRoster(STUDY, "run-1", nodes, 4, 1),
        SumRoster(STUDY, "run-1", nodes, 5, 2),
        SumRoster(STUDY, "run-2", nodes, 5, 1),
        SumRoster("sha256:" + "8" * 64, "run-1", nodes, 5, 1),
        SumRoster(STUDY, "run-1", swapped, 5, 1),
    ]
    assert len({roster.digest for roster in rosters}) == len(rosters)
    again = SumRoster(STUDY, "run-1", dict(reversed(nodes.items())), 5, 1)
    assert again.digest == rosters[0].digest
