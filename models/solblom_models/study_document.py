"""From a study file to the document that is signed: the noise multiplier follows from the promise."""

from solblom_models.accountant import calibrate_noise
from solblom_models.flat import layout_of
from solblom_models.shared_noise import add_shared_noise, shared_with_training
from solblom_models.task import Task, find_task
from solblom_protocol.contracts.kinds import AnyContract
from solblom_protocol.errors import ConfigurationError
from solblom_protocol.studies.study import StudyDocument, check_sum_plan
from solblom_protocol.studies.tables import Study
from solblom_protocol.sums.secure_sum import Roster


def resolve(study: Study, contract: AnyContract, roster: Roster | None = None) -> StudyDocument:
    """Return the document to sign: the smallest noises, to four decimals, that keep the study's epsilon.

    `roster` names the hospitals of a secure sum, where the study has one.

    Table 1 takes its share first, since every patient pays for it. Training patients pay for the
    training with the rest, test patients for the evaluation: nobody is both (privacy.md rule 4). Where
    the split is by groups, evaluation.epsilon comes out of the training's too (`StudyDocument`).

    Raises:
        ConfigurationError: SB-105 no noise is enough; SB-103, SB-106 or SB-107 the task refuses the
            study.
    """
    if (roster is None) != (study.secure_sum is None):
        raise ConfigurationError("SB-103", "A roster belongs to the table secure_sum")
    try:
        document = _with_noise(study, contract, roster)
    except ValueError as error:
        raise ConfigurationError("SB-105", f"The privacy target cannot be met: {error}") from None
    check_task(document)
    check_sum_plan(document)
    return document


def check_task(document: StudyDocument) -> Task:
    """Return the study's task, which accepts the study.

    Raises:
        ConfigurationError: SB-103 the task keeps parameters at each hospital, and privacy is off;
            SB-106 or SB-107 the task refuses the study.
    """
    task = find_task(document.study.task.name)
    task.check(document)
    if document.noise_multiplier is None and task.local_parameters(document):
        # Without epsilon nothing is stored (privacy.md rule 10), so they would begin anew each round.
        raise ConfigurationError(
            "SB-103",
            f"privacy.epsilon is off, and the task {task.name} keeps parameters at each hospital, "
            "where nothing is stored without privacy",
            "Set an epsilon, or use a task whose parameters are all shared",
        )
    if document.secure_sum is not None and task.local_parameters(document):
        raise ConfigurationError(
            "SB-103",
            f"The task {task.name} keeps parameters at each hospital; with shared noise they would be "
            "trained with a share of it only",
            'Use noise = "local"',
        )
    plan = document.secure_sum
    if plan is not None and plan.values != update_size(document):
        raise ConfigurationError(
            "SB-103",
            f"The secure sum is made for {plan.values} values; an update has {update_size(document)}",
        )
    return task


def update_size(document: StudyDocument) -> int:
    """Return how many numbers one update has."""
    task = find_task(document.study.task.name)
    return layout_of(task.build(document), local=task.local_parameters(document)).size


def _with_noise(study: Study, contract: AnyContract, roster: Roster | None) -> StudyDocument:
    privacy, evaluation, table = study.privacy, study.evaluation, study.table_one
    document = StudyDocument(
        schema="solblom.study/1",
        study=study,
        contract=contract,
        noise_multiplier=None,
        evaluation_noise=None,
        table_one_noise=None,
        secure_sum=None,
    )
    if privacy.epsilon == "off":
        return document
    if roster is not None:
        return add_shared_noise(document, roster, values=update_size(document))
    if table is not None:
        noise = calibrate_noise(
            table.epsilon, privacy.delta, steps=len(table.variables), kind="discrete-gaussian"
        )
        document = document.model_copy(update={"table_one_noise": noise})
    beside = [] if document.table_one_event is None else [document.table_one_event]
    if evaluation.releases:
        noise = calibrate_noise(
            privacy.epsilon if evaluation.epsilon is None else evaluation.epsilon,
            privacy.delta,
            steps=evaluation.releases,
            kind="discrete-gaussian",
            beside=beside,
        )
        document = document.model_copy(update={"evaluation_noise": noise})
    noise = calibrate_noise(
        privacy.epsilon,
        privacy.delta,
        sampling_rate=privacy.sampling_rate,
        steps=study.training.rounds * study.training.local_steps,
        beside=beside + shared_with_training(document),
    )
    return document.model_copy(update={"noise_multiplier": noise})
