"""A task of one's own: installed as a package, approved at a hospital, trained under privacy, parts of it staying."""

import datetime as dt
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from lab import LabHospital, study_document
from solblom_client.budget.ledger import STATE_FILE
from solblom_client.policy import load_node_config
from solblom_client.state import VaultState
from solblom_models.flat import flatten
from solblom_models.tabular.data import read_units
from solblom_models.tabular.table_file import Table
from solblom_models.tabular.task import TabularClassification
from solblom_models.task import Task, find_task, isolation_error
from solblom_models.templates import TemplateValues, write_template
from solblom_protocol.errors import ConfigurationError, DataError, RefusedError
from solblom_protocol.messages.layout import pack, to_grid, unpack
from solblom_protocol.messages.result import Result
from solblom_protocol.studies.study import StudyDocument
from solblom_server.rounds.rounds import initial_model
from unit.models import plugin

DOCUMENTED = Path(__file__).parents[3] / "docs/how-to/add-a-task.md"


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on Python's path, forgotten after the test."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    yield folder
    for name in [n for n in sys.modules if n.partition(".")[0] == plugin.PACKAGE]:
        del sys.modules[name]


@pytest.fixture
def installed(path: Path) -> Path:
    """The package of `plugin.py`, installed for one test."""
    plugin.install(path)
    return path


@pytest.fixture
def study(installed: Path) -> StudyDocument:
    return study_document(task={"name": plugin.NAME}, privacy={"sampling_rate": 1.0})


@pytest.fixture
def willing(hospital: LabHospital, study: StudyDocument) -> LabHospital:
    """A hospital whose policy lists the task and which has approved the study."""
    allow(hospital, plugin.NAME)
    hospital.approve(study)
    return hospital


def allow(hospital: LabHospital, task: str) -> None:
    file = hospital.folder / "node.toml"
    text = file.read_text(encoding="utf-8")
    listed = f'tasks = ["tabular-classification", "{task}"]'
    file.write_text(text.replace('tasks = ["tabular-classification"]', listed), encoding="utf-8")
    hospital.config = load_node_config(file)
    hospital.restart()


def trained(hospital: LabHospital, study: StudyDocument, number: int = 1) -> Result:
    reply = hospital.ask(hospital.order(study, round=number, attempt=1))
    assert isinstance(reply, Result), reply
    return reply


def kept_intercept(hospital: LabHospital, after_round: int) -> float:
    state = VaultState(hospital.config.state / STATE_FILE)
    data = bytes(
        state.query("SELECT data FROM local_parameters WHERE round = ?", (after_round,))[0][0]
    )  # type: ignore[call-overload]
    state.close()
    stored = load(data)
    assert set(stored) == {"intercept.weight"}
    return float(stored["intercept.weight"].item())


def test_an_installed_task_is_found_by_name(installed: Path) -> None:
    task = find_task(plugin.NAME)
    assert isinstance(task, Task)
    assert type(task).__module__ == f"{plugin.PACKAGE}.task"


def test_a_task_that_is_not_installed_is_refused_with_the_installed_ones() -> None:
    with pytest.raises(ConfigurationError, match="tabular-classification") as caught:
        find_task(plugin.NAME)
    assert caught.value.code == "SB-107"


def test_a_task_that_lacks_a_part_of_the_interface_is_refused(installed: Path) -> None:
    source = installed / plugin.PACKAGE / "task.py"
    source.write_text(plugin.SOURCE.replace("def losses", "def gains"), encoding="utf-8")
    with pytest.raises(ConfigurationError, match="lacks parts") as caught:
        find_task(plugin.NAME)
    assert caught.value.code == "SB-107"


def test_a_hospital_whose_policy_does_not_list_the_task_refuses_it(
    hospital: LabHospital, study: StudyDocument
) -> None:
    with pytest.raises(RefusedError, match=plugin.NAME) as caught:
        hospital.approve(study)
    assert caught.value.code == "SB-205"


def test_an_installed_task_is_trained_under_privacy(
    willing: LabHospital, study: StudyDocument
) -> None:
    reply = trained(willing, study)
    trace = willing.vault.last_trace
    assert trace is not None
    assert trace.noise_deviation == float(study.noise_multiplier or 0)
    assert reply.receipt.privacy_event() == study.round_event
    assert willing.charges() == 1


def test_a_local_parameter_is_in_no_layout(study: StudyDocument) -> None:
    _, layout = initial_model(study)
    assert [tensor.name for tensor in layout.tensors] == ["slopes.weight"]


def test_a_local_parameter_is_in_no_update(willing: LabHospital, study: StudyDocument) -> None:
    update = trained(willing, study).update
    _, layout = initial_model(study)
    assert len(update) == 4 * layout.size == 4 * 5
    kept = torch.tensor([kept_intercept(willing, after_round=1)])
    assert kept.item() != 0
    assert pack([to_grid(kept.numpy())]) not in update
    assert pack([kept.numpy()]) not in update


def test_an_order_that_asks_for_the_local_parameter_is_refused(
    willing: LabHospital, study: StudyDocument
) -> None:
    asked: list[dict[str, Any]] = [
        {"name": "slopes.weight", "shape": [1, 5]},
        {"name": "intercept.weight", "shape": [1, 1]},
    ]
    order = willing.order(study, array=bytes(24), layout=asked)
    assert getattr(willing.ask(order), "code", None) == "SB-212"


def test_a_local_parameter_begins_at_its_initial_value(
    willing: LabHospital, study: StudyDocument
) -> None:
    seen = importlib.import_module(f"{plugin.PACKAGE}.task").SEEN
    seen.clear()
    trained(willing, study)
    assert seen == [0.0]


def test_a_local_parameter_persists_at_the_node_between_rounds(
    willing: LabHospital, study: StudyDocument
) -> None:
    trained(willing, study, 1)
    after_first = kept_intercept(willing, after_round=1)
    willing.restart()
    seen = importlib.import_module(f"{plugin.PACKAGE}.task").SEEN
    seen.clear()
    trained(willing, study, 2)
    assert seen == [after_first]
    assert kept_intercept(willing, after_round=2) != after_first


def test_the_same_round_again_begins_with_the_same_local_parameter(
    willing: LabHospital, study: StudyDocument
) -> None:
    order = willing.order(study)
    assert willing.vault.process(order) == willing.vault.process(order)
    assert willing.charges() == 1


def test_a_task_with_local_parameters_needs_privacy(installed: Path) -> None:
    with pytest.raises(ConfigurationError, match="nothing is stored without privacy") as caught:
        study_document(task={"name": plugin.NAME}, privacy={"epsilon": "off"})
    assert caught.value.code == "SB-103"


def test_a_hospital_approves_no_local_parameters_without_privacy(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hospital = LabHospital(tmp_path / "north", policy="allow_privacy_off = true")
    allow(hospital, plugin.NAME)
    with monkeypatch.context() as careless:
        careless.setattr("solblom_models.study_document.check_task", lambda document: None)
        study = study_document(task={"name": plugin.NAME}, privacy={"epsilon": "off"})
    with pytest.raises(ConfigurationError) as caught:
        hospital.approve(study)
    assert caught.value.code == "SB-103"


def test_nothing_is_stored_without_privacy(tmp_path: Path) -> None:
    hospital = LabHospital(tmp_path / "north", policy="allow_privacy_off = true")
    study = study_document(privacy={"epsilon": "off"})
    hospital.approve(study)
    assert trained(hospital, study)
    state = VaultState(hospital.config.state / STATE_FILE)
    assert state.query("SELECT * FROM local_parameters") == []
    assert state.query("SELECT * FROM results") == []
    state.close()


@pytest.mark.parametrize("form", ["package", "namespace", "module"])
def test_changed_code_of_the_task_stops_the_study(
    hospital: LabHospital, path: Path, form: plugin.Form
) -> None:
    source = plugin.install(path, form=form)
    study = study_document(task={"name": plugin.NAME})
    allow(hospital, plugin.NAME)
    hospital.approve(study)
    assert trained(hospital, study)
    source.write_text(plugin.SOURCE + "\n# a change\n", encoding="utf-8")
    importlib.import_module("solblom_protocol.code_digest")._code_digest.cache_clear()  # a restart
    assert getattr(hospital.ask(hospital.order(study, attempt=2)), "code", None) == "SB-211"


@pytest.mark.parametrize("form", ["package", "namespace", "module"])
def test_a_task_without_a_template_starts_no_study(
    path: Path, tmp_path: Path, form: plugin.Form
) -> None:
    plugin.install(path, form=form)
    values = TemplateValues(name="mine", ends=dt.date(2027, 12, 31))
    with pytest.raises(ConfigurationError, match="ships no template") as caught:
        write_template(tmp_path / "mine", plugin.NAME, values)
    assert caught.value.code == "SB-107"


class CentresByTheBatch(TabularClassification):
    """Takes the batch's mean from every patient's features: others change one's gradient."""

    def losses(self, model: torch.nn.Module, batch: Any) -> torch.Tensor:
        features, *rest = batch
        return super().losses(model, (features - features.mean(dim=0), *rest))


class ComparesWithTheBatch(TabularClassification):
    """Takes the batch's mean loss from every patient's loss."""

    def losses(self, model: torch.nn.Module, batch: Any) -> torch.Tensor:
        losses = super().losses(model, batch)
        return losses - losses.mean()


def some_units() -> Any:
    columns: dict[str, tuple[str, ...]] = {
        "age": ("40", "50", "61", "72", "83"),
        "smoker": ("0", "1", "1", "0", "1"),
        "grade": ("a", "b", "c", "a", "b"),
        "ill": ("0", "1", "1", "0", "1"),
    }
    ids = tuple(f"p{n}" for n in range(5))
    return read_units(Table(ids, columns), study_document().contract)


def test_a_task_whose_patients_stand_alone_has_no_isolation_error() -> None:
    task = TabularClassification()
    assert isolation_error(task, task.build(study_document()), some_units()) < 1e-6


@pytest.mark.parametrize("task", [CentresByTheBatch(), ComparesWithTheBatch()])
def test_a_task_that_mixes_patients_has_an_isolation_error(task: TabularClassification) -> None:
    assert isolation_error(task, task.build(study_document()), some_units()) > 0.1


def test_a_task_that_mixes_patients_is_not_approved(hospital: LabHospital, installed: Path) -> None:
    source = installed / plugin.PACKAGE / "task.py"
    mixed = "features, labels = batch[:2]\n        features = features - features.mean(dim=0)"
    changed = plugin.SOURCE.replace("features, labels = batch[:2]", mixed)
    source.write_text(changed, encoding="utf-8")
    allow(hospital, plugin.NAME)
    document = study_document(task={"name": plugin.NAME})
    with pytest.raises(DataError) as caught:
        hospital.approve(document)
    assert caught.value.code == "SB-309"


def test_a_net_begins_where_the_public_study_says(study: StudyDocument) -> None:
    weights, layout = initial_model(study)
    task = find_task(plugin.NAME)
    assert flatten(task.build(study), layout) == weights
    assert unpack(weights, layout).tolist() == [0.0] * 5


@pytest.mark.skipif(not DOCUMENTED.is_file(), reason="docs/how-to/add-a-task.md is not written yet")
def test_the_package_in_the_documentation_trains(
    hospital: LabHospital, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = DOCUMENTED.read_text(encoding="utf-8")
    folder = tmp_path / "documented"
    information = folder / "site_intercept-0.1.0.dist-info"
    information.mkdir(parents=True)
    for title, body in re.findall(r'```\w+ title="(site_intercept/.+?)"\n(.*?)```', text, re.S):
        (folder / title).parent.mkdir(exist_ok=True)
        (folder / title).write_text(body, encoding="utf-8")
    point = re.search(r'^site-intercept = "(.+)"$', text, re.M)
    assert point is not None
    (information / "METADATA").write_text(plugin.METADATA, encoding="utf-8")
    (information / "entry_points.txt").write_text(
        f"[solblom.tasks]\nsite-intercept = {point[1]}\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(folder)
    document = study_document(task={"name": "site-intercept"})
    allow(hospital, "site-intercept")
    hospital.approve(document)
    assert trained(hospital, document).update
