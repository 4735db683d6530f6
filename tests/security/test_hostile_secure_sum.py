"""What a hostile coordinator, or a researcher who promises too much, gets out of a secure sum: nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from secure_lab import SITES, SecureLab
from solblom_client.approvals.approval import approval_folder, revoke
from solblom_client.masks.key_file import ERASED
from solblom_protocol.errors import ConfigurationError, RefusedError
from solblom_protocol.messages.message import parse_message
from solblom_protocol.messages.order import RosterEntry
from solblom_protocol.messages.result import Refusal, Result
from solblom_protocol.studies.study import parse_document
from solblom_protocol.sums.mask_keys import MaskKey, mask_key_text, sign_mask_key
from solblom_verify.canonical import canonical_json, parse_canonical
from solblom_verify.envelope import key_id, open_envelope


@pytest.fixture
def lab(tmp_path: Path) -> SecureLab:
    lab = SecureLab(tmp_path)
    lab.approve()
    return lab


def refused(lab: SecureLab, site: str, order: bytes, code: str, *, words: str = "") -> None:
    """Check the refusal's code outside and its words in the site's own log; nothing was charged."""
    before = lab.hospitals[site].charges()
    reply = lab.hospitals[site].ask(order)
    assert isinstance(reply, Refusal)
    assert reply.code == code
    assert lab.hospitals[site].charges() == before
    log = (lab.hospitals[site].config.state / "log" / "vault.jsonl").read_text()
    assert words in log.splitlines()[-1]


def test_the_sum_opens_to_the_clipped_sums_and_each_share_of_the_noise(lab: SecureLab) -> None:
    results = lab.results(lab.keys())
    opened = lab.open(results)
    plan = lab.study.secure_sum
    assert plan is not None
    assert opened.shape == (plan.values,)
    # 180 patients and three shares of noise: far above one patient, far below the ring.
    spread = 3 * 180 * 2.0**plan.fractional_bits + 8 * plan.training_share
    assert 0 < np.abs(opened).max() < spread
    for site, result in results.items():
        words = np.frombuffer(result.update, dtype="<u4")
        assert len(set(words.tolist())) == len(words), site  # uniform words hardly ever repeat


def test_the_same_order_again_gives_the_same_masked_bytes_and_one_charge(lab: SecureLab) -> None:
    keys = lab.keys()
    first, again = lab.results(keys), lab.results(keys)
    assert {s: bytes(r.update) for s, r in first.items()} == {
        s: bytes(r.update) for s, r in again.items()
    }
    assert [h.charges() for h in lab.hospitals.values()] == [1, 1, 1]


def test_a_key_is_given_without_reading_a_row_or_charging_anything(lab: SecureLab) -> None:
    (lab.hospitals["north"].folder / "patients.csv").unlink()
    (lab.hospitals["north"].folder / "consent.csv").unlink()
    assert lab.key("north") != lab.key("north", attempt=2)  # it names the order that asked
    assert lab.hospitals["north"].charges() == 0


def mask_key(envelope: str, lab: SecureLab, site: str) -> MaskKey:
    key = lab.roster.keys[site]
    payload = open_envelope(
        envelope.encode(),
        payload_type="application/vnd.solblom.mask-key+json",
        keys={key_id(key): key},
    ).payload
    return parse_message(MaskKey, payload)


def test_a_node_has_one_key_a_run_and_another_in_another_run(lab: SecureLab) -> None:
    first = mask_key(lab.key("north"), lab, "north").mask_key
    again = mask_key(lab.key("north", attempt=2), lab, "north").mask_key
    other = mask_key(lab.key("north", run="lab-2"), lab, "north").mask_key
    assert first == again != other


def test_a_swapped_mask_key_is_refused_and_its_hospital_named(lab: SecureLab) -> None:
    keys = lab.keys()
    honest = mask_key(keys[2], lab, "west")
    own = mask_key_text(X25519PrivateKey.generate().public_key())
    forged = sign_mask_key(
        honest.model_copy(update={"mask_key": own}), lab.coordinator.signing
    ).decode()
    order = lab.order("north", masking=(*keys[:2], forged))
    refused(lab, "north", order, "SB-216", words="west")


def test_a_mask_key_that_another_hospital_signed_is_refused(lab: SecureLab) -> None:
    keys = lab.keys()
    order = lab.order("north", masking=(keys[0], keys[1], keys[0]))
    refused(lab, "north", order, "SB-216", words="west")


def test_a_mask_key_of_another_run_is_refused(lab: SecureLab) -> None:
    old, keys = lab.key("west", run="lab-0"), lab.keys()
    order = lab.order("north", masking=(*keys[:2], old))
    refused(lab, "north", order, "SB-216", words="another run")


@pytest.mark.parametrize("count", [0, 1, 2, 4])
def test_too_few_or_too_many_mask_keys_are_refused(lab: SecureLab, count: int) -> None:
    keys = lab.keys()
    order = lab.order("north", masking=(keys * 2)[:count])
    refused(lab, "north", order, "SB-216")


def test_a_puppet_in_the_orders_roster_is_refused_and_named(lab: SecureLab) -> None:
    puppet = RosterEntry(site="puppet", node=key_id(Ed25519PrivateKey.generate().public_key()))
    roster = sorted([*lab.entries, puppet], key=lambda entry: entry.site)
    order = lab.order("north", roster=roster, masking=lab.keys())
    refused(lab, "north", order, "SB-216", words="puppet")


def test_a_hospital_left_out_of_the_orders_roster_is_refused_and_named(lab: SecureLab) -> None:
    order = lab.order("north", roster=lab.entries[:2], masking=lab.keys())
    refused(lab, "north", order, "SB-205")
    swapped = [*lab.entries[:2], RosterEntry(site="west", node="0" * 64)]
    refused(
        lab, "north", lab.order("north", roster=swapped, masking=lab.keys(attempt=2)), "SB-216",
        words="west",
    )  # fmt: skip


def test_a_second_model_for_an_answered_round_is_refused_before_anything_is_charged(
    lab: SecureLab,
) -> None:
    keys = lab.keys()
    results = lab.results(keys)
    size = lab.study.secure_sum.values if lab.study.secure_sum else 0
    other = np.ones(size, dtype="<f4").tobytes()
    order = lab.order(
        "north",
        masking=keys,
        array=other,
        attempt=2,
        previous_order=None,
        last_receipt=results["north"].receipt_digest,
    )
    refused(lab, "north", order, "SB-207", words="answered once")


def test_a_changed_cohort_gets_no_second_vector_under_the_same_masks(lab: SecureLab) -> None:
    """Two vectors under one mask give away their difference: the difference of two cohorts."""
    keys = lab.keys()
    lab.results(keys)
    hospital = lab.hospitals["north"]
    hospital.write_consent([f"{hospital.rows[0]['patient_id']},withdrawn,"])
    hospital.restart()
    if isinstance(hospital.ask(lab.order("north", masking=keys, attempt=2)), Result):
        hospital.write_rows(hospital.rows[1:])  # it was a test patient: nothing changed yet
    hospital.write_rows(hospital.rows[8:])
    refused(lab, "north", lab.order("north", masking=keys, attempt=3), "SB-209")


def test_an_order_for_a_masked_round_before_keys_were_asked_for_is_refused(lab: SecureLab) -> None:
    keys = lab.keys(run="lab-2")
    reply = lab.hospitals["north"].ask(lab.order("north", masking=keys))
    assert isinstance(reply, Refusal)
    assert reply.code == "SB-216"


def test_mask_keys_go_with_the_approval(lab: SecureLab) -> None:
    lab.keys()
    hospital = lab.hospitals["north"]
    folder = approval_folder(hospital.config, lab.study.digest)
    assert list(folder.glob("mask-*.key"))
    revoke(hospital.config, lab.study.digest)
    assert not list(folder.glob("mask-*.key"))


def test_keys_of_an_older_run_are_erased_when_a_newer_one_begins(lab: SecureLab) -> None:
    keys = lab.keys(run="lab-1")
    lab.keys(run="lab-2")
    folder = approval_folder(lab.hospitals["north"].config, lab.study.digest)
    assert [p.read_bytes() for p in folder.glob("mask-*.key")].count(ERASED) == 1
    reply = lab.hospitals["north"].ask(lab.order("north", masking=keys))
    assert isinstance(reply, Refusal)


@pytest.mark.parametrize(
    ("policy", "code", "words"),
    [
        ("", "SB-205", "allow is false"),
        ("shared_noise = { allow = true }", "SB-205", "min_honest_nodes is 3"),
        (
            "shared_noise = { allow = true, min_honest_nodes = 2, alone_epsilon = 3.5 }",
            "SB-204",
            "alone_epsilon is 3.5",
        ),
    ],
)
def test_a_hospital_relies_on_others_only_as_far_as_its_policy_says(
    tmp_path: Path, policy: str, code: str, words: str
) -> None:
    lab = SecureLab(tmp_path, policy=policy)
    with pytest.raises(RefusedError, match=words) as caught:
        lab.hospitals["north"].approve(lab.study)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"training": {"rounds": 3, "local_steps": 2}}, "one gradient per opened sum"),
        ({"privacy": {"epsilon": 3.0, "noise": "shared", "sampling_rate": 0.5}}, "all patients"),
        ({"privacy": {"epsilon": "off", "noise": "shared", "sampling_rate": 1.0}}, "is missing"),
        ({"cohort": {"min_nodes": 2, "quorum": 2}}, "all hospitals of its roster"),
        ({"secure_sum": {"roster": "roster.json", "colluders": 2}}, "nobody is left"),
        (
            {"training": {"rounds": 3, "strategy": "fedprox", "proximal": 0.1}},
            "does nothing",
        ),
    ],
)
def test_a_study_whose_shared_noise_would_not_hold_cannot_be_written(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        signed_and_read(tmp_path, changes)


def test_adaptive_steps_on_the_opened_sum_are_no_reason_to_refuse(tmp_path: Path) -> None:
    constants = {"beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3}
    training = {"rounds": 3, "strategy": "fedadam", "server_learning_rate": 0.1, **constants}
    signed_and_read(tmp_path, {"training": training})


def signed_and_read(folder: Path, changes: dict[str, Any]) -> None:
    """Write a study, and read it as a hospital does."""
    parse_document(SecureLab(folder, **changes).study.payload())


@pytest.mark.parametrize(
    ("name", "value"),
    [("training_share", 4), ("fractional_bits", 2), ("values", 5), ("training_share", 3)],
)
def test_a_signed_study_whose_noise_is_not_what_its_shares_give_is_refused(
    tmp_path: Path, name: str, value: int
) -> None:
    document: Any = parse_canonical(SecureLab(tmp_path).study.payload())
    document["secure_sum"][name] = value
    with pytest.raises(ConfigurationError):
        parse_document(canonical_json(document))


def test_a_signed_study_with_too_small_shares_and_honest_figures_breaks_its_promise(
    tmp_path: Path,
) -> None:
    policy = "shared_noise = { allow = true, min_honest_nodes = 2, alone_epsilon = 100.0 }"
    lab = SecureLab(tmp_path, policy=policy)
    plan = lab.study.secure_sum
    assert plan is not None
    less = lab.study.model_copy(
        update={"secure_sum": plan.model_copy(update={"training_share": plan.training_share // 2})}
    )
    noise = less.round_event.noise_multiplier
    lab.study = parse_document(less.model_copy(update={"noise_multiplier": noise}).payload())
    with pytest.raises(RefusedError, match="it promises 3") as caught:
        lab.hospitals["north"].approve(lab.study)
    assert caught.value.code == "SB-204"


def test_a_hospital_that_the_roster_does_not_name_approves_nothing(tmp_path: Path) -> None:
    lab, stranger = SecureLab(tmp_path / "a"), SecureLab(tmp_path / "b")
    with pytest.raises(RefusedError, match="does not name north") as caught:
        stranger.hospitals["north"].approve(lab.study)
    assert caught.value.code == "SB-216"


def test_the_roster_stands_in_what_a_hospital_approves(tmp_path: Path) -> None:
    from solblom_client.approvals.approval import prepare
    from solblom_client.keys import read_node_keys
    from solblom_protocol.keys.key_files import fingerprint

    lab = SecureLab(tmp_path)
    north = lab.hospitals["north"]
    keys = read_node_keys(north.config.state)
    summary = prepare(north.config, keys, north.sign(lab.study), now=north.clock()).summary
    text = "\n".join(line for _, line in summary.lines())
    for site in SITES:
        assert f"{site}  {fingerprint(lab.hospitals[site].public.signing)}" in text
    for words in ("threshold: all 3", "at most 1 hospital", "your own share alone", "two of these"):
        assert words in text
