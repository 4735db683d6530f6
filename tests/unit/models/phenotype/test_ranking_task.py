"""`phenotype-ranking`: from cases to sums, and from sums to an order of diseases."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.naive_bayes import MultinomialNB

from phenotype_lab import packet, write_lines
from ranking_lab import (
    BOTH,
    DISEASES,
    FEBRILE,
    FOCAL,
    SEIZURE,
    SHORT,
    contract_tables,
    made_up_case,
    ranking_contract,
    ranking_document,
    write_cases,
    write_release,
)
from solblom_models.phenotype.cases import CaseUnits, age_band
from solblom_models.phenotype.knowledge import Knowledge, knowledge_of
from solblom_models.phenotype.naive_bayes import (
    SHRINKAGE,
    STRENGTH,
    correction,
    prior_log_shares,
    profile_shares,
    read_out,
)
from solblom_models.phenotype.net import Prototypes, Ranker, Trained
from solblom_models.phenotype.settings import CONTRIBUTION_NORM, COUNT_WEIGHT, noise_deviation
from solblom_models.phenotype.task import PhenotypeRanking
from solblom_models.task import find_task, isolation_error, unit_gradients
from solblom_protocol.contracts.phenopackets import PhenotypeContract
from solblom_protocol.errors import ConfigurationError, DataError
from solblom_protocol.studies.study import StudyDocument
from solblom_protocol.toml_file import parse

TASK = PhenotypeRanking()


@pytest.fixture
def contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PhenotypeContract:
    return ranking_contract(write_release(tmp_path / "hpo", monkeypatch))


@pytest.fixture
def document(contract: PhenotypeContract) -> StudyDocument:
    return ranking_document(contract)


@pytest.fixture
def units(tmp_path: Path, document: StudyDocument) -> CaseUnits:
    return TASK.read_units(write_cases(tmp_path / "cases.jsonl", 30), document)


def prototypes(document: StudyDocument) -> Prototypes:
    net = TASK.build(document)
    assert isinstance(net, Prototypes)
    return net


def test_the_task_is_installed() -> None:
    assert find_task("phenotype-ranking").connector == "phenopackets"


def test_a_cases_vector_is_that_of_its_space(document: StudyDocument, units: CaseUnits) -> None:
    space = knowledge_of(document.contract).space
    dense = units.dense([0])[0]
    assert dense.shape == (space.size,)
    assert np.linalg.norm(dense) == pytest.approx(1.0)
    shown = {space.terms[i] for i in np.flatnonzero(dense[: len(space.terms)])}
    assert shown == {FOCAL, SEIZURE, SHORT}  # case 0 shows a focal seizure, hence a seizure


def test_an_excluded_term_stands_in_its_own_channel(
    document: StudyDocument, units: CaseUnits
) -> None:
    space = knowledge_of(document.contract).space
    assert BOTH not in space.terms  # no study disease is annotated with it: it leaves no trace
    assert units.outside[0] == 1
    assert units.outside[1] == 0


def test_labels_are_positions_in_the_label_space(units: CaseUnits) -> None:
    assert units.labels.tolist() == [n % 3 for n in range(30)]


def test_another_id_of_a_disease_is_the_same_label(
    tmp_path: Path, contract: PhenotypeContract
) -> None:
    tables = contract_tables(tmp_path / "hpo")
    tables["target"]["diseases"][0]["also"] = ["ORPHA:558"]
    document = ranking_document(parse(PhenotypeContract, tables, source="contract"))
    case = made_up_case(0, "OMIM:1")
    case["interpretations"][0]["diagnosis"]["disease"]["id"] = "Orphanet:558"
    found = TASK.read_units(write_lines(tmp_path, case), document)
    assert found.labels.tolist() == [0]


def test_what_is_not_used_is_counted_by_name(tmp_path: Path, document: StudyDocument) -> None:
    broken = [
        b'{"id": "x"',
        packet(subject=None),
        made_up_case(0, "OMIM:1"),
        made_up_case(0, "OMIM:1"),
    ]
    unmapped = made_up_case(5, "OMIM:1")
    unmapped["interpretations"][0]["diagnosis"]["disease"]["id"] = "OMIM:999"
    found = TASK.read_units(write_lines(tmp_path, *broken, unmapped), document)
    assert len(found.ids) == 1
    assert found.notes["JSON that ends too early"] == 1
    assert found.notes["no subject id"] == 1
    assert found.notes["patient seen before"] == 1
    assert found.notes["disease outside the study's label space"] == 1
    assert found.notes["documents"] == 5


def test_a_missing_file_is_named(tmp_path: Path, document: StudyDocument) -> None:
    with pytest.raises(DataError) as caught:
        TASK.read_units(tmp_path / "nothing.jsonl", document)
    assert caught.value.code == "SB-307"


def test_another_release_than_the_pinned_one_is_refused(
    tmp_path: Path, contract: PhenotypeContract
) -> None:
    tables = contract_tables(tmp_path / "hpo")
    tables["ontology"]["ontology"] = "sha256:" + "0" * 64
    other = parse(PhenotypeContract, tables, source="contract.toml")
    with pytest.raises(ConfigurationError) as caught:
        knowledge_of(other)
    assert caught.value.code == "SB-116"


def test_select_and_row_bytes_follow_the_patient(units: CaseUnits) -> None:
    chosen = units.select([7, 2])
    assert chosen.ids == (units.ids[7], units.ids[2])
    assert chosen.row_bytes(0) == units.row_bytes(7)
    assert np.array_equal(chosen.dense(), units.dense([7, 2]))
    assert chosen.groups["publication"] == ("PMID:1007", "PMID:1002")


def test_row_bytes_change_with_terms_label_and_group(
    tmp_path: Path, document: StudyDocument
) -> None:
    plain = made_up_case(1, "OMIM:1")
    variants = [
        plain,
        made_up_case(1, "OMIM:2"),
        made_up_case(1, "OMIM:1", publication="PMID:7"),
        {**plain, "phenotypicFeatures": [{"type": {"id": SEIZURE}}]},
    ]
    rows = set()
    for number, case in enumerate(variants):
        folder = tmp_path / str(number)
        folder.mkdir()
        rows.add(TASK.read_units(write_lines(folder, case), document).row_bytes(0))
    assert len(rows) == len(variants)


def test_ages_fall_into_bands() -> None:
    assert [age_band(age) for age in (None, 0.5, 1.0, 17.9, 18.0, 90.0)] == [
        "unknown",
        "below 1",
        "1 to 6",
        "12 to 18",
        "18 to 40",
        "65 or more",
    ]


def test_a_patients_gradient_is_the_contribution_whatever_the_weights(
    document: StudyDocument, units: CaseUnits
) -> None:
    net = prototypes(document)
    torch.nn.init.normal_(net.sums.weight)
    gradients = unit_gradients(TASK, net, units.batch(range(4)))
    for index, gradient in enumerate(gradients):
        rows = -gradient.reshape(net.sums.weight.shape)
        own = int(units.labels[index])
        assert np.allclose(rows[own, :-1], units.dense([index])[0])
        assert float(rows[own, -1]) == pytest.approx(COUNT_WEIGHT)
        rows[own] = 0
        assert not rows.any()
        assert float(gradient.norm()) <= CONTRIBUTION_NORM


def test_other_patients_do_not_change_a_gradient(document: StudyDocument, units: CaseUnits) -> None:
    for changes in ({}, {"model": {"kind": "linear"}}, {"model": {"kind": "mlp", "hidden": 4}}):
        found = document if not changes else with_model(document, changes["model"])
        assert isolation_error(TASK, TASK.build(found), units) < 1e-5


def with_model(document: StudyDocument, model: dict[str, object]) -> StudyDocument:
    task = document.study.task.model_copy(update={"model": model})
    return document.model_copy(update={"study": document.study.model_copy(update={"task": task})})


def add_up(net: Prototypes, units: CaseUnits) -> Prototypes:
    with torch.no_grad():
        for index, label in enumerate(units.labels):
            row = np.append(units.dense([index])[0], np.float32(COUNT_WEIGHT))
            net.sums.weight[label] += torch.from_numpy(row)
    return net


def test_exact_sums_are_read_out_as_scikit_learns_naive_bayes(
    document: StudyDocument, units: CaseUnits
) -> None:
    """The prior as pseudo-patients: scikit-learn then has the same counts and no smoothing of its own."""
    net = add_up(prototypes(document), units)
    terms = len(net.knowledge.space.terms)
    features = units.dense().astype(float)
    each = features[:, :terms].sum() / len(units.ids)
    pseudo = net.settings.prior_weight * each * profile_shares(net.knowledge)
    oracle = MultinomialNB(alpha=1e-12, force_alpha=True, fit_prior=False).fit(
        np.concatenate([features[:, :terms], pseudo]),
        np.concatenate([units.labels, np.arange(len(DISEASES))]),
    )
    weights = net.weights().numpy()
    assert np.allclose(weights[:, :terms], oracle.feature_log_prob_, atol=1e-6)
    scores = TASK.rankings(net, units)
    assert scores.shape == (30, 3)
    assert (scores.argmax(axis=1) == units.labels).mean() > 0.9


def test_public_knowledge_alone_knows_nothing_of_an_unannotated_disease(
    document: StudyDocument, units: CaseUnits
) -> None:
    net = prototypes(document)
    assert net.knowledge.annotated.tolist() == [True, True, False]
    third = units.labels == 2
    before = TASK.rankings(net, units)[third].argmax(axis=1)
    after = TASK.rankings(add_up(net, units), units)[third].argmax(axis=1)
    assert (after == 2).mean() > (before == 2).mean()


def test_with_noise_profiles_stay_and_a_shrunken_difference_is_added(
    document: StudyDocument, units: CaseUnits
) -> None:
    net = add_up(prototypes(document), units)
    sums = net.sums.weight.detach().double().numpy()
    patients = sums[:, -1] / COUNT_WEIGHT
    found = read_out(net.knowledge, sums[:, :-1], patients, prior_weights=(4.0, 6.0), deviation=2.0)
    mean = sums[:, :-1].sum(axis=0) / 30
    by_hand = STRENGTH * (sums[:, :-1] - 10 * mean) / (10 + SHRINKAGE * 2.0)
    assert np.allclose(found - prior_log_shares(net.knowledge), by_hand)


def test_more_noise_moves_scores_less(units: CaseUnits, document: StudyDocument) -> None:
    sums = add_up(prototypes(document), units).sums.weight.detach().double().numpy()
    sizes = [
        np.abs(correction(sums[:, :-1], np.full(3, 10.0), deviation=d)).max() for d in (0.5, 2, 8)
    ]
    assert sizes[0] > sizes[1] > sizes[2] > 0


def test_sums_that_are_all_noise_give_finite_scores(
    document: StudyDocument, units: CaseUnits
) -> None:
    net = prototypes(document)
    net.deviation = 5.0
    with torch.no_grad():
        net.sums.weight.copy_(
            5 * torch.randn(net.sums.weight.shape, generator=torch.Generator().manual_seed(1))
        )
    assert np.isfinite(TASK.rankings(net, units)).all()
    net.deviation = 0.0  # read out as if they were exact: still finite
    assert np.isfinite(TASK.rankings(net, units)).all()


def test_a_trained_ranker_starts_at_public_knowledge(
    document: StudyDocument, units: CaseUnits
) -> None:
    for model in ({"kind": "linear"}, {"kind": "mlp", "hidden": 4}):
        net = TASK.build(with_model(document, model))
        assert isinstance(net, Trained)
        weights = prior_log_shares(net.knowledge)
        assert np.allclose(TASK.rankings(net, units), units.dense() @ weights.T, atol=1e-5)


def test_the_noise_of_a_study_is_known_from_the_study(contract: PhenotypeContract) -> None:
    off = ranking_document(contract)
    assert noise_deviation(off) == 0.0
    private = ranking_document(contract, privacy={"epsilon": 3.0})
    multiplier = float(private.noise_multiplier or 0)
    assert noise_deviation(private) == pytest.approx(multiplier * 1.0308 * 3**0.5)
    net = TASK.build(private)
    assert isinstance(net, Prototypes)
    assert net.deviation == noise_deviation(private)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"training": {"rounds": 2}}, "rounds"),
        ({"training": {"learning_rate": 10.0}}, "learning_rate"),
        ({"training": {"server_momentum": 0.5}}, "server_momentum"),
        ({"training": {"server_learning_rate": 0.5}}, "server_learning_rate"),
        ({"training": {"averaging": "second-half"}}, "averaging"),
        ({"privacy": {"clipping_norm": 1.0}}, "clipping_norm"),
        ({"privacy": {"sampling_rate": 0.5, "epsilon": 3.0}}, "sampling_rate"),
    ],
)
def test_settings_under_which_a_sum_is_no_sum_are_refused(
    contract: PhenotypeContract, changes: dict[str, dict[str, object]], named: str
) -> None:
    with pytest.raises(ConfigurationError, match=named) as caught:
        ranking_document(contract, **changes)
    assert caught.value.code == "SB-103"


@pytest.mark.parametrize(
    "model",
    [
        {"kind": "trees"},
        {"kind": "mlp"},
        {"kind": "linear", "hidden": 3},
        {"kind": "linear", "x": 1},
    ],
)
def test_unknown_models_are_refused(contract: PhenotypeContract, model: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        ranking_document(contract, task={"model": model})


def test_a_contract_of_tables_is_refused(document: StudyDocument) -> None:
    from lab import study_document

    table = study_document()
    with pytest.raises(ConfigurationError) as caught:
        TASK.check(document.model_copy(update={"contract": table.contract}))
    assert caught.value.code == "SB-106"
    with pytest.raises(ConfigurationError) as caught:
        find_task("tabular-classification").check(
            table.model_copy(update={"contract": document.contract})
        )
    assert caught.value.code == "SB-106"


def test_knowledge_is_the_closure_of_annotations(document: StudyDocument) -> None:
    found: Knowledge = knowledge_of(document.contract)
    place = {term: index for index, term in enumerate(found.space.terms)}
    assert found.profiles[0, place[FOCAL]] == pytest.approx(0.9)
    assert found.profiles[0, place[SEIZURE]] == pytest.approx(0.9)  # at least that of its kinds
    assert found.profiles[1, place[FEBRILE]] == pytest.approx(0.8)
    assert not found.profiles[2].any()


def test_table_one_counts_diseases_sexes_and_ages(
    tmp_path: Path, contract: PhenotypeContract
) -> None:
    document = ranking_document(
        contract,
        privacy={"epsilon": 3.0},
        table_one={"epsilon": 0.5, "variables": ["disease", "sex", "age_band"]},
    )
    cells = dict(TASK.table_one_cells(document))
    path = write_cases(tmp_path / "cases.jsonl", 30)
    ids = [f"patient-{n}" for n in range(29)]
    counts = TASK.table_one_counts(path, ids, document)
    assert len(counts) == sum(len(block) for block in cells.values())
    assert counts[:3].tolist() == [10, 10, 9]
    sexes = dict(zip(cells["sex"], counts[3:], strict=False))
    assert (sexes["MALE"], sexes["FEMALE"]) == (14, 15)
    assert counts[-1] == 29  # no age is stated


def test_every_ranker_of_the_task_is_one(document: StudyDocument) -> None:
    assert isinstance(TASK.build(document), Ranker)


def test_terms_of_short_stature_speak_for_the_third_disease(
    document: StudyDocument, units: CaseUnits
) -> None:
    net = add_up(prototypes(document), units)
    place = net.knowledge.space.terms.index(SHORT)
    weights = net.weights().numpy()[:, place]
    assert weights.argmax() == 2
