"""A share opens for its recipient and its sum alone; a setup is one hospital's, and its shares are checked."""

import base64
import json
from itertools import combinations

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from solblom_protocol.errors import ConfigurationError, IntegrityError
from solblom_protocol.logs.merkle import tree_root
from solblom_protocol.messages.seal import unseal
from solblom_protocol.messages.signing import sign_envelope
from solblom_protocol.sums.mask_setup import (
    DEALT_PAYLOAD_TYPE,
    SETUP_PAYLOAD_TYPE,
    SHARE_KEY_PAYLOAD_TYPE,
    DealtShare,
    MaskSetup,
    Participants,
    participants_of,
    read_dealt_setup,
    read_dealt_share,
    read_participants,
    read_share_keys,
    write_setup,
    write_share_key,
)
from solblom_protocol.sums.mask_shares import (
    ShareKind,
    SharePair,
    mask_private_key,
    seal_share,
    seed_commitment,
    share_commitment,
    unseal_share,
)
from solblom_protocol.sums.roster import SumRoster, SumRound
from solblom_protocol.sums.secret_sharing import PRIME, join_secret, split_secret
from solblom_verify.canonical import canonical_json
from sum_lab import (
    STUDY,
    SumLab,
    secrets_of,
    share_key,
    signing_key,
    site_names,
    sum_roster,
    told,
)

PAIR = SharePair(b"k" * 17, b"s" * 17)
LAB = SumLab(sum_roster(4))


def refusal(error: pytest.ExceptionInfo[IntegrityError]) -> tuple[str, str]:
    return error.value.code, error.value.message


@pytest.mark.parametrize(("threshold", "count"), [(2, 3), (3, 4), (4, 5), (5, 5)])
def test_any_threshold_of_shares_gives_the_secret_and_fewer_do_not(
    threshold: int, count: int
) -> None:
    secret = bytes(range(16))
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
    shares = dict(enumerate(split_secret(bytes(16), threshold=3, count=3), start=1))
    # A polynomial of degree 2 through (0, s) and the two known shares exists for every s.
    for secret in (bytes(16), b"\xff" * 16, bytes(range(16))):
        first, second = (int.from_bytes(shares[point], "big") for point in (1, 2))
        # Lagrange at 0 over points 1, 2, 3: s = 3 a - 3 b + c
        third = (int.from_bytes(secret, "big") - 3 * first + 3 * second) % PRIME
        assert join_secret({**shares, 3: third.to_bytes(17, "big")}, threshold=3) == secret


@pytest.mark.parametrize(
    ("secret", "threshold", "count"), [(b"x" * 15, 2, 3), (b"x" * 16, 1, 3), (b"x" * 16, 4, 3)]
)
def test_a_split_that_hides_nothing_or_cannot_be_joined_is_refused(
    secret: bytes, threshold: int, count: int
) -> None:
    with pytest.raises(ValueError, match="threshold"):
        split_secret(secret, threshold=threshold, count=count)


ZERO = bytes(17)


@pytest.mark.parametrize(
    "shares",
    [
        {0: ZERO, 1: ZERO},
        {1: bytes(16), 2: ZERO},
        {1: bytes(18), 2: ZERO},
        {1: PRIME.to_bytes(17, "big"), 2: ZERO},
        {1: b"\xff" * 17, 2: ZERO},
        {1: ZERO, PRIME + 1: ZERO},
        {1: ZERO},
    ],
)
def test_a_share_that_is_none_is_refused(shares: dict[int, bytes]) -> None:
    with pytest.raises(ValueError, match="shares of 17 bytes"):
        join_secret(shares, threshold=2)


def test_shares_of_a_number_that_is_no_secret_are_refused() -> None:
    """A dealer may commit to any field element; one from 2^128 on is no secret of 16 bytes."""
    number = (2**128).to_bytes(17, "big")
    with pytest.raises(ValueError, match="no secret"):
        join_secret({1: number, 2: number}, threshold=2)


def test_shares_follow_a_polynomial_and_differ_each_time() -> None:
    """By hand over the points 1 to 3: the third share lies on the line through the first two."""
    secret = bytes(range(16))
    one, two, three = (
        int.from_bytes(share, "big") for share in split_secret(secret, threshold=2, count=3)
    )
    assert (two - one) % PRIME == (three - two) % PRIME
    assert (2 * one - two) % PRIME == int.from_bytes(secret, "big")
    assert split_secret(secret, threshold=2, count=3) != split_secret(secret, threshold=2, count=3)


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
    code, message = refusal(caught)
    assert code == "SB-405"
    assert message.startswith("The share of h00 for h01 cannot be opened")
    assert named in LAB.of.differences(other)


def test_a_share_of_another_owner_or_recipient_is_refused_by_name() -> None:
    key = share_key("h01")
    sealed = seal_share(PAIR, LAB.of, owner="h00", recipient="h01", key=key.public_key())
    with pytest.raises(IntegrityError, match="share of h02 for h01 cannot be opened"):
        unseal_share(sealed, LAB.of, owner="h02", recipient="h01", key=key)
    with pytest.raises(IntegrityError, match="share of h00 for h03 cannot be opened"):
        unseal_share(sealed, LAB.of, owner="h00", recipient="h03", key=key)


def test_a_commitment_is_to_one_share_of_one_kind_owner_recipient_and_sum() -> None:
    def commitment(
        of: SumRound = LAB.of,
        owner: str = "h00",
        recipient: str = "h01",
        kind: ShareKind = "key",
        share: bytes = b"x" * 17,
    ) -> str:
        return share_commitment(of, owner=owner, recipient=recipient, kind=kind, share=share)

    found = [
        commitment(),
        commitment(of=LAB.of.model_copy(update={"number": 2})),
        commitment(owner="h02"),
        commitment(recipient="h02"),
        commitment(kind="seed"),
        commitment(share=b"y" * 17),
        seed_commitment(LAB.of, owner="h00", seed=b"x" * 16),
        seed_commitment(LAB.of, owner="h02", seed=b"x" * 16),
        seed_commitment(LAB.of.model_copy(update={"attempt": 2}), owner="h00", seed=b"x" * 16),
    ]
    assert len(set(found)) == len(found)


def test_a_sealed_share_is_no_order_and_no_reply() -> None:
    key = share_key("h01")
    sealed = seal_share(PAIR, LAB.of, owner="h00", recipient="h01", key=key.public_key())
    for kind in ("order", "reply"):
        with pytest.raises(IntegrityError, match="not a sealed message"):
            unseal(sealed, kind=kind, key=key)  # type: ignore[arg-type]


def test_secrets_and_shares_are_not_shown_in_a_log_line() -> None:
    secrets = secrets_of("h00", LAB.of)
    assert secrets.self_seed.hex() not in repr(secrets)
    assert repr(PAIR) == "SharePair()"


def test_every_hospital_opens_the_share_that_a_setup_deals_to_it() -> None:
    dealt = {
        site: read_dealt_share(
            told(LAB.roster, LAB.of, LAB.setups.values(), site),
            owner="h00",
            recipient=site,
            key=share_key(site),
        )
        for site in LAB.roster.sites
    }
    joined = join_secret(
        {LAB.roster.index(site): pair.key for site, pair in dealt.items()}, threshold=3
    )
    assert joined == secrets_of("h00", LAB.of).mask_seed


def test_a_mask_seed_stands_for_another_key_in_each_sum_and_at_each_owner() -> None:
    found = {
        mask_private_key(of, owner=owner, seed=bytes(16)).private_bytes_raw()
        for of in (LAB.of, LAB.of.model_copy(update={"number": 2}))
        for owner in ("h00", "h01")
    }
    assert len(found) == 4


def answer(setup: MaskSetup, shares: list[DealtShare] | None = None, *, signer: str) -> bytes:
    """Return a setup as a hospital that signs whatever it likes would answer."""
    inner = sign_envelope(setup.payload(), SETUP_PAYLOAD_TYPE, [signing_key(signer)])
    dealt = LAB.dealt("h01").shares if shares is None else shares
    payload = canonical_json(
        {
            "schema": "solblom.dealt-setup/1",
            "setup": inner.decode(),
            "shares": [share.model_dump(mode="json") for share in dealt],
        }
    )
    return sign_envelope(payload, DEALT_PAYLOAD_TYPE, [signing_key(signer)])


def changed(**members: object) -> MaskSetup:
    return LAB.dealt("h01").setup.model_copy(update=members)


def rooted(shares: list[DealtShare], site: str = "h01") -> MaskSetup:
    """Return a setup that stands for these shares."""
    root = tree_root([share.leaf for share in shares]).hex()
    return LAB.dealt(site).setup.model_copy(update={"shares": f"sha256:{root}"})


def test_a_swapped_mask_key_breaks_the_signature() -> None:
    handed = json.loads(LAB.dealt("h01").hand_to("h02"))
    inner = json.loads(handed["setup"])
    inner["payload"] = base64.b64encode(changed(mask_key="11" * 32).payload()).decode()
    paper = canonical_json({**handed, "setup": canonical_json(inner).decode()})
    with pytest.raises(IntegrityError, match="signature") as caught:
        read_participants(LAB.roster, LAB.of, [paper], recipient="h02")
    assert caught.value.code == "SB-405"


def test_a_swapped_mask_key_that_a_colluder_signs_is_refused_by_name() -> None:
    with pytest.raises(IntegrityError, match="h03 signed a mask setup of h01"):
        read_dealt_setup(LAB.roster, LAB.of, answer(changed(mask_key="11" * 32), signer="h03"))


def test_a_puppet_beside_the_roster_is_refused() -> None:
    for envelope in (
        answer(changed(site="puppet"), signer="puppet"),
        answer(changed(), signer="puppet"),
    ):
        with pytest.raises(IntegrityError, match="not trusted here") as caught:
            read_dealt_setup(LAB.roster, LAB.of, envelope)
        assert caught.value.code == "SB-405"
    with pytest.raises(IntegrityError, match="h00 signed a mask setup of puppet"):
        read_dealt_setup(LAB.roster, LAB.of, answer(changed(site="puppet"), signer="h00"))


def test_a_setup_that_one_hospital_signed_inside_anothers_answer_is_refused() -> None:
    """h03 repeats h01's setup, with h01's signature, as its own answer."""
    payload = base64.b64decode(json.loads(LAB.setups["h01"])["payload"])
    envelope = sign_envelope(payload, DEALT_PAYLOAD_TYPE, [signing_key("h03")])
    with pytest.raises(IntegrityError, match="h03 signed a mask setup of h01"):
        read_dealt_setup(LAB.roster, LAB.of, envelope)


def test_a_setup_of_another_sum_is_refused_by_name() -> None:
    for number, attempt, named in ((2, 1, "number"), (1, 2, "attempt")):
        other = SumLab(LAB.roster, number=number, attempt=attempt)
        with pytest.raises(IntegrityError, match=f"setup of h01 is of another sum: {named}"):
            read_dealt_setup(LAB.roster, LAB.of, other.setups["h01"])
        paper = other.dealt("h01").hand_to("h02").encode()
        with pytest.raises(IntegrityError, match=f"setup of h01 is of another sum: {named}"):
            read_participants(LAB.roster, LAB.of, [paper], recipient="h02")


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
            read_dealt_setup(LAB.roster, other, LAB.setups["h00"])


def test_two_setups_of_one_hospital_are_refused_by_name() -> None:
    dealt = [LAB.dealt(site) for site in (*LAB.roster.sites, "h01")]
    with pytest.raises(IntegrityError, match="h01 has two mask setups"):
        participants_of(LAB.roster, LAB.of, dealt)
    with pytest.raises(IntegrityError, match="h01 has two mask setups"):
        told(LAB.roster, LAB.of, [*LAB.setups.values(), LAB.setups["h01"]], "h02")


def test_a_setup_without_a_share_for_each_hospital_is_refused_by_name() -> None:
    dealt = list(LAB.dealt("h01").shares)
    for shares in (dealt[1:], [*dealt, dealt[0]], dealt[::-1]):
        wrong = answer(rooted(shares), shares, signer="h01")
        with pytest.raises(IntegrityError, match="h01 has not one share for each hospital"):
            read_dealt_setup(LAB.roster, LAB.of, wrong)


def with_false_share() -> list[DealtShare]:
    """Return h01's shares, of which the one for h02 is not what h01 commits to."""
    key = share_key("h02").public_key()
    sealed = seal_share(PAIR, LAB.of, owner="h01", recipient="h02", key=key)
    return [
        share.model_copy(update={"sealed": base64.b64encode(sealed).decode()})
        if share.recipient == "h02"
        else share
        for share in LAB.dealt("h01").shares
    ]


def test_shares_other_than_those_of_the_signed_setup_name_who_dealt_them() -> None:
    wrong = answer(changed(), with_false_share(), signer="h01")
    with pytest.raises(IntegrityError, match="h01 dealt other shares than its mask setup"):
        read_dealt_setup(LAB.roster, LAB.of, wrong)


def test_a_share_other_than_the_committed_one_names_its_owner() -> None:
    shares = with_false_share()
    setups = {**LAB.setups, "h01": answer(rooted(shares), shares, signer="h01")}
    participants = told(LAB.roster, LAB.of, setups.values(), "h02")
    with pytest.raises(IntegrityError, match="h01 dealt h02 another share") as caught:
        read_dealt_share(participants, owner="h01", recipient="h02", key=share_key("h02"))
    assert caught.value.code == "SB-405"


def test_another_hospitals_shares_passed_off_as_ones_own_are_refused_by_name() -> None:
    """Else the others would release the key share of h00 as h03's, and the seed share as h00's."""
    honest = LAB.dealt("h00")
    copied = honest.setup.model_copy(update={"site": "h03"})
    setups = {**LAB.setups, "h03": answer(copied, list(honest.shares), signer="h03")}
    participants = told(LAB.roster, LAB.of, setups.values(), "h01")
    with pytest.raises(IntegrityError, match="share of h03 for h01 cannot be opened"):
        read_dealt_share(participants, owner="h03", recipient="h01", key=share_key("h01"))


@pytest.mark.parametrize("change", ["other share", "other proof", "short proof", "other place"])
def test_a_coordinator_that_hands_out_another_share_is_found_out(change: str) -> None:
    """Only the share that stands in the tree at this hospital's place passes."""
    dealt = LAB.dealt("h01")
    handed = json.loads(dealt.hand_to("h02"))
    other = json.loads(dealt.hand_to("h03"))
    if change == "other share":
        handed["share"] = {**handed["share"], "sealed": other["share"]["sealed"]}
    if change == "other proof":
        handed["proof"][0] = "0" * 64
    if change == "short proof":
        handed["proof"] = handed["proof"][:-1]
    if change == "other place":
        handed = other
    with pytest.raises(IntegrityError, match="another share of h01 than it dealt to h02") as caught:
        read_participants(LAB.roster, LAB.of, [canonical_json(handed)], recipient="h02")
    assert caught.value.code == "SB-404"


def test_a_hospital_knows_its_own_shares_only() -> None:
    participants: Participants = told(LAB.roster, LAB.of, LAB.setups.values(), "h02")
    assert participants.digest == LAB.participants().digest
    with pytest.raises(IntegrityError, match="no share for h03"):
        participants.share("h01", "h03")


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
