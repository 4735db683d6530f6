"""A hostile researcher signs a study, or somebody alters what a hospital approved; policy and budget hold."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lab import LabHospital, study_document
from security.observer import Observer
from solblom_client.approvals.approval import approval_folder, approve, revoke
from solblom_client.keys import read_node_keys
from solblom_client.policy import load_node_config
from solblom_protocol.errors import IntegrityError, RefusedError, SolblomError
from solblom_protocol.messages.result import Result
from solblom_protocol.studies.study import StudyDocument, sign_study


@pytest.fixture
def study(observer: Observer) -> StudyDocument:
    """The laboratory's study, approved."""
    document = study_document()
    observer.hospital.approve(document)
    return document


def approvals_file(hospital: LabHospital, study: StudyDocument, name: str) -> Path:
    return approval_folder(hospital.config, study.digest) / name


def flip_last_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(bytes(data))


def trains_with_root(observer: Observer, study: StudyDocument, root: bytes) -> bool:
    reply = observer.hospital.ask(observer.hospital.order(study))
    stored = approvals_file(observer.hospital, study, "noise.root")
    return isinstance(reply, Result) and stored.read_bytes() == root


# --- Approval


def test_a_study_that_nobody_approved_is_refused(observer: Observer) -> None:
    observer.assert_refused(observer.hospital.order(study_document()), "SB-203")


def test_a_study_that_was_revoked_is_refused_even_for_an_answered_round(
    observer: Observer, study: StudyDocument
) -> None:
    order = observer.hospital.order(study)
    assert isinstance(observer.hospital.ask(order), Result)
    revoke(observer.hospital.config, study.digest)
    observer.assert_refused(order, "SB-203")


def test_revoking_a_study_leaves_no_noise_root_behind(
    observer: Observer, study: StudyDocument
) -> None:
    revoke(observer.hospital.config, study.digest)
    assert not approvals_file(observer.hospital, study, "noise.root").exists()


def test_code_that_changed_since_the_approval_does_not_train(
    observer: Observer, study: StudyDocument, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "solblom_client.approvals.approval.code_digest", lambda _: "sha256:" + "c" * 64
    )
    observer.assert_refused(observer.hospital.order(study), "SB-211")


def now_says(hospital: LabHospital, *, simulation: bool) -> None:
    """Change what node.toml says about the node, and restart it."""
    file = hospital.folder / "node.toml"
    text = file.read_text(encoding="utf-8").replace("simulation = true\n", "")
    if simulation:
        text = text.replace("[node]\n", "[node]\nsimulation = true\n")
    file.write_text(text, encoding="utf-8")
    hospital.config = load_node_config(file)
    hospital.restart()


@pytest.mark.parametrize("then", [True, False], ids=["then-simulated", "then-real"])
def test_an_approval_of_a_simulation_is_none_of_a_real_hospital(
    observer: Observer, then: bool
) -> None:
    hospital, study = observer.hospital, study_document()
    now_says(hospital, simulation=then)
    hospital.approve(study)
    now_says(hospital, simulation=not then)
    observer.assert_refused(hospital.order(study), "SB-203")
    with pytest.raises(RefusedError, match=r"node\.toml now says") as caught:
        hospital.approve(study)  # would keep the noise root, which may follow from a public seed
    assert caught.value.code == "SB-203"
    now_says(hospital, simulation=then)
    assert isinstance(hospital.ask(hospital.order(study)), Result)


@pytest.mark.parametrize("name", ["approval.dsse.json", "noise.root"])
def test_an_approval_that_was_altered_stops_the_study(
    observer: Observer, study: StudyDocument, name: str
) -> None:
    flip_last_byte(approvals_file(observer.hospital, study, name))
    observer.assert_refused(observer.hospital.order(study), "SB-214")


@pytest.mark.parametrize("name", ["study.dsse.json", "noise.root"])
def test_an_approval_with_a_missing_part_stops_the_study(
    observer: Observer, study: StudyDocument, name: str
) -> None:
    approvals_file(observer.hospital, study, name).unlink()
    observer.assert_refused(observer.hospital.order(study), "SB-214")


def test_an_approval_of_one_study_does_not_open_another(
    observer: Observer, study: StudyDocument
) -> None:
    other = study_document(training={"learning_rate": 0.25})
    folder = approvals_file(observer.hospital, other, "")
    folder.mkdir(parents=True)
    for file in approvals_file(observer.hospital, study, "").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    observer.assert_refused(observer.hospital.order(other), "SB-214")


def test_an_approval_signed_by_another_node_is_refused(
    observer: Observer, study: StudyDocument, tmp_path: Path
) -> None:
    other = LabHospital(tmp_path / "other")
    other.researcher = observer.hospital.researcher
    other_key = (observer.hospital.folder / "researcher.pub").read_bytes()
    (other.folder / "researcher.pub").write_bytes(other_key)
    other.approve(study)
    foreign = approvals_file(other, study, "approval.dsse.json").read_bytes()
    approvals_file(observer.hospital, study, "approval.dsse.json").write_bytes(foreign)
    observer.assert_refused(observer.hospital.order(study), "SB-214")


def test_a_noise_root_that_was_altered_is_not_adopted_by_approving_again(
    observer: Observer, study: StudyDocument
) -> None:
    known = b"\x01" * 32
    approvals_file(observer.hospital, study, "noise.root").write_bytes(known)
    with contextlib.suppress(SolblomError):
        observer.hospital.approve(study)
    assert not trains_with_root(observer, study, known)


def test_a_crash_while_revoking_never_leaves_a_guessable_root_for_the_next_approval(
    observer: Observer, study: StudyDocument, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as crash:
        crash.setattr(Path, "unlink", _power_cut)
        with pytest.raises(OSError, match="power cut"):
            revoke(observer.hospital.config, study.digest)
    with contextlib.suppress(SolblomError):
        observer.hospital.approve(study)
    assert not trains_with_root(observer, study, bytes(32))


# --- Who signs studies


def test_a_study_signed_by_an_unknown_researcher_is_not_approved(observer: Observer) -> None:
    keys = read_node_keys(observer.hospital.config.state)
    envelope = sign_study(study_document(), Ed25519PrivateKey.generate())
    with pytest.raises(IntegrityError) as error:
        approve(observer.hospital.config, keys, envelope, now=observer.hospital.clock())
    assert error.value.code == "SB-215"
    observer.assert_refused(observer.hospital.order(study_document()), "SB-203")


def test_a_study_stops_when_its_researcher_is_no_longer_known(
    observer: Observer, study: StudyDocument
) -> None:
    other = observer.hospital.coordinator.public.to_bytes()
    (observer.hospital.folder / "researcher.pub").write_bytes(other)
    observer.assert_refused(observer.hospital.order(study), "SB-215")


def test_a_study_envelope_swapped_for_one_by_an_unknown_researcher_is_refused(
    observer: Observer, study: StudyDocument
) -> None:
    envelope = sign_study(study, Ed25519PrivateKey.generate())
    approvals_file(observer.hospital, study, "study.dsse.json").write_bytes(envelope)
    observer.assert_refused(observer.hospital.order(study), "SB-215")


# --- Policy

_POLICY_CHANGES = pytest.mark.parametrize(
    ("document", "old", "new", "code"),
    [
        (study_document, "[policy]", "[policy]\ndelta = 1e-6", "SB-204"),
        (study_document, "[policy]", "[policy]\nstudy_epsilon = 1.99", "SB-204"),
        (study_document, '["tabular-classification"]', '["phenotype-ranking"]', "SB-205"),
        (study_document, "[policy]", '[policy]\nnets = ["mlp"]', "SB-205"),
        (
            lambda: study_document(privacy={"epsilon": "off"}),
            "allow_privacy_off = true",
            "allow_privacy_off = false",
            "SB-205",
        ),
    ],
    ids=["delta", "study-epsilon", "task", "net", "privacy-off"],
)


@_POLICY_CHANGES
def test_a_study_above_the_policy_is_not_approved(
    tmp_path: Path, document: Callable[[], StudyDocument], old: str, new: str, code: str
) -> None:
    observer = Observer(LabHospital(tmp_path / "north", policy="allow_privacy_off = true"))
    observer.edit_config(old, new)
    with pytest.raises(RefusedError) as error:
        observer.hospital.approve(document())
    assert error.value.code == code


@_POLICY_CHANGES
def test_a_policy_that_became_stricter_stops_an_approved_study(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    document: Callable[[], StudyDocument],
    old: str,
    new: str,
    code: str,
) -> None:
    observer = Observer(LabHospital(tmp_path / "north", policy="allow_privacy_off = true"))
    observer.watch(monkeypatch)
    study = document()
    observer.hospital.approve(study)
    observer.edit_config(old, new)
    observer.assert_refused(observer.hospital.order(study), code)


def test_a_data_set_that_left_the_policy_stops_the_study(
    observer: Observer, study: StudyDocument
) -> None:
    observer.edit_config('name = "patients"', 'name = "others"')
    observer.assert_refused(observer.hospital.order(study), "SB-205")


# --- Budget


def test_the_budget_of_a_study_ends_its_runs(observer: Observer, study: StudyDocument) -> None:
    for number in (1, 2, 3):
        assert isinstance(
            observer.hospital.ask(observer.hospital.order(study, round=number)), Result
        )
    observer.assert_refused(observer.hospital.order(study, run="again"), "SB-204")


def test_the_budget_of_a_lifetime_ends_all_studies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    observer = Observer(LabHospital(tmp_path / "north", policy="epsilon_budget = 2.5"))
    observer.watch(monkeypatch)
    hospital = observer.hospital
    first, second = study_document(), study_document(study={"title": "A second study"})
    for study in (first, second):
        hospital.approve(study)
    for number in (1, 2, 3):
        assert isinstance(hospital.ask(hospital.order(first, round=number)), Result)
    observer.assert_refused(hospital.order(second, run="second"), "SB-204")


def test_a_study_without_noise_leaves_no_budget_for_any_later_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    observer = Observer(LabHospital(tmp_path / "north", policy="allow_privacy_off = true"))
    observer.watch(monkeypatch)
    hospital, off = observer.hospital, study_document(privacy={"epsilon": "off"})
    private = study_document()
    hospital.approve(off)
    hospital.approve(private)
    assert isinstance(hospital.ask(hospital.order(off)), Result)
    observer.assert_refused(hospital.order(private, run="private"), "SB-204")


def test_no_reply_without_noise_is_stored(tmp_path: Path) -> None:
    hospital = LabHospital(tmp_path / "north", policy="allow_privacy_off = true")
    study = study_document(privacy={"epsilon": "off"})
    hospital.approve(study)
    assert isinstance(hospital.ask(hospital.order(study)), Result)
    assert hospital.vault._state.query("SELECT count(*) FROM results") == [(0,)]


def test_a_study_with_less_noise_than_its_promise_runs_out_of_budget_at_once(
    observer: Observer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("solblom_client.approvals.approval.check_promise", lambda _: None)
    honest = study_document()
    lying = honest.model_copy(update={"noise_multiplier": "1.0000"})
    observer.hospital.approve(lying)
    observer.assert_refused(observer.hospital.order(lying), "SB-204")


def test_a_study_whose_noise_does_not_fit_its_promise_is_not_approved(observer: Observer) -> None:
    lying = study_document().model_copy(update={"noise_multiplier": "0.5000"})
    with pytest.raises(SolblomError):
        observer.hospital.approve(lying)


def test_constants_below_the_precision_of_float32_are_not_approved(observer: Observer) -> None:
    tiny = study_document(privacy={"clipping_norm": 2e-43})
    with pytest.raises(SolblomError, match="clipping_norm"):
        observer.hospital.approve(tiny)


def _power_cut(path: Path, missing_ok: bool = False) -> None:
    raise OSError("power cut")
