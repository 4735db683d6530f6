"""What a study file may not ask for, because it could not be run or accounted for as written."""

from solblom_protocol.contracts.bags import BagContract
from solblom_protocol.contracts.kinds import AnyContract, describable
from solblom_protocol.contracts.phenopackets import PhenotypeContract
from solblom_protocol.errors import ConfigurationError
from solblom_protocol.studies.tables import Study, TrainingTable

ADAPTIVE = ("fedadam", "fedyogi")  # strategies whose coordinator scales each weight's step
ROBUST = ("median", "trimmed-mean", "krum")  # strategies that compare hospitals' updates
MAX_DELTA = 0.01  # delta is a probability of total failure: never more than one in a hundred


def check_study(study: Study, contract: AnyContract) -> None:
    """Refuse a study that cannot be run as written; needs no clock and no data.

    Raises:
        ConfigurationError: SB-103, SB-105 or SB-108.
    """
    privacy, cohort = study.privacy, study.cohort
    if privacy.epsilon != "off" and not 0 < privacy.epsilon <= 100:
        raise ConfigurationError(
            "SB-105", f"privacy.epsilon is {privacy.epsilon}; it must lie above 0 and at most 100"
        )
    if not 0 < privacy.delta <= MAX_DELTA:
        raise ConfigurationError(
            "SB-105",
            f"privacy.delta is {privacy.delta}; it must lie above 0 and at most {MAX_DELTA}",
        )
    if not 1e-6 <= privacy.clipping_norm <= 1e6:
        # Near the smallest float32 numbers, rounding could raise a contribution above its norm.
        raise ConfigurationError(
            "SB-103",
            f"privacy.clipping_norm is {privacy.clipping_norm:g}; it must lie within 1e-6 and 1e6",
        )
    _check_shared_noise(study)
    if privacy.unit == "family":
        _check_families(study, contract)
    if cohort.quorum > cohort.min_nodes:
        raise ConfigurationError(
            "SB-103", f"cohort.quorum is {cohort.quorum}, more than min_nodes ({cohort.min_nodes})"
        )
    _check_steps(study)
    _check_server_steps(study.training)
    _check_robust(study)
    _check_releases(study, contract)
    if study.task.target != contract.target.name:
        raise ConfigurationError(
            "SB-106",
            f"task.target is {study.task.target}, but the contract's target is {contract.target.name}",
        )


def _check_families(study: Study, contract: AnyContract) -> None:
    """Refuse a promise to families where nobody could keep it (privacy.md rules 1 and 4).

    Raises:
        ConfigurationError: SB-103 the split could part a family; SB-108 the data know no families.
    """
    if isinstance(contract, BagContract):
        raise ConfigurationError(
            "SB-108",
            f"privacy.unit is family; {study.task.name} reads slides, which name no families in this version",
            'Use unit = "patient"',
        )
    by = study.evaluation.split.by
    if by != "family":
        raise ConfigurationError(
            "SB-103",
            f"privacy.unit is family and evaluation.split is by {by}: a family could stand on both sides",
            'Set split = { by = "family" }',
        )


def _check_shared_noise(study: Study) -> None:
    """Refuse shared noise whose accounting would not hold (privacy.md rule 7).

    Raises:
        ConfigurationError: SB-103 or SB-105.
    """
    training, privacy = study.training, study.privacy
    if (privacy.noise == "shared") != (study.secure_sum is not None):
        raise ConfigurationError(
            "SB-103", 'privacy.noise = "shared" and the table secure_sum belong together'
        )
    if privacy.noise != "shared":
        return
    if privacy.epsilon == "off":
        raise ConfigurationError("SB-105", "privacy.epsilon is off: there is no noise to share")
    if training.strategy in ROBUST:  # architecture.md: robust rules exclude masking, and say so
        raise ConfigurationError(
            "SB-103",
            f"training.strategy is {training.strategy}, which compares single hospitals' updates; with "
            "shared noise only their sum is ever opened, and nobody sees one of them",
            'Use noise = "local", or a strategy of sums such as fedavg',
        )
    # With local steps a node's later gradients see its own share only, so the sum's noise does not
    # cover them: ten steps at sigma 6, read as .87, cost 2.11 (rule 7).
    if training.local_steps != 1:
        raise ConfigurationError(
            "SB-103",
            f"training.local_steps is {training.local_steps}; shared noise is accounted for one "
            "gradient per opened sum",
            "Set local_steps = 1 and more rounds; momentum belongs to the coordinator",
        )
    if privacy.sampling_rate != 1.0:
        raise ConfigurationError(
            "SB-103",
            f"privacy.sampling_rate is {privacy.sampling_rate:g}; shared noise is accounted for all "
            "patients in every round",
            "Set sampling_rate = 1.0",
        )
    # Adaptive steps are taken on the opened sum, after the noise: post-processing.
    if training.strategy == "fedprox":
        raise ConfigurationError(
            "SB-103", "training.strategy is fedprox; with one local step it does nothing"
        )


def _check_steps(study: Study) -> None:
    """Refuse local steps that cannot go well.

    Raises:
        ConfigurationError: SB-103.
    """
    training = study.training
    if (training.strategy == "fedprox") != (training.proximal > 0):
        raise ConfigurationError(
            "SB-103", "training.proximal belongs to strategy fedprox, which needs it above 0"
        )
    pull = training.learning_rate * training.proximal
    if pull > 2:
        raise ConfigurationError(
            "SB-103",
            f"training.learning_rate times training.proximal is {pull:g}; above 2 each step moves "
            "further away from the round's first model than the last",
        )


def _check_server_steps(training: TrainingTable) -> None:
    """Refuse settings of the coordinator's steps that are missing, or that its strategy does not read.

    Raises:
        ConfigurationError: SB-103.
    """
    settings = {"beta_1": training.beta_1, "beta_2": training.beta_2, "tau": training.tau}
    if training.strategy not in ADAPTIVE:
        given = [name for name, value in settings.items() if value is not None]
        if given:
            raise ConfigurationError(
                "SB-103",
                f"training.{given[0]} belongs to strategy fedadam or fedyogi, not {training.strategy}",
            )
        return
    missing = [name for name, value in settings.items() if value is None]
    if missing:
        raise ConfigurationError(
            "SB-103",
            f"training.strategy {training.strategy} needs {', '.join(missing)}",
            "beta_1 = 0.9, beta_2 = 0.99 and tau = 0.001 are those of Reddi et al. (2021)",
        )
    if training.server_momentum:
        raise ConfigurationError(
            "SB-103",
            f"training.server_momentum is {training.server_momentum:g}; the momentum of "
            f"{training.strategy} is beta_1",
            "Remove server_momentum",
        )


def updates_needed(training: TrainingTable) -> int:
    """Return how many updates a round needs before its rule means anything; 1 for strategies of sums.

    * median: 3. Of two it is the mean, which one of them moves anywhere.
    * trimmed-mean: 2k + 1, else nothing is left between the k smallest and the k largest (Yin et al. 2018,
      arXiv:1803.01498, Definition 2: k / n below one half).
    * krum: 2f + 3 (Blanchard et al. 2017, arXiv:1703.02757, Proposition 1: 2f + 2 < n).
    """
    tolerated = training.tolerated or 0
    return {"median": 3, "trimmed-mean": 2 * tolerated + 1, "krum": 2 * tolerated + 3}.get(
        training.strategy, 1
    )


def _check_robust(study: Study) -> None:
    """Refuse a rule that would protect from nobody, and settings of such rules elsewhere.

    Raises:
        ConfigurationError: SB-103.
    """
    training, cohort = study.training, study.cohort
    name, counts = training.strategy, training.strategy in ("trimmed-mean", "krum")
    if counts != (training.tolerated is not None):
        raise ConfigurationError(
            "SB-103",
            f"training.strategy {name} needs tolerated: how many hospitals' updates may be anything"
            if counts
            else f"training.tolerated belongs to strategy trimmed-mean or krum, not {name}",
            "tolerated = 1 needs a quorum of 3 with trimmed-mean, of 5 with krum",
        )
    batch = training.expected_batch_size
    if name not in ROBUST:
        if isinstance(batch, dict):  # docs/adr/0004: sums add up under one divisor only
            raise ConfigurationError(
                "SB-103",
                "training.expected_batch_size has a number for each hospital, which belongs to median, "
                f"trimmed-mean and krum; {name} adds up sums, which have one divisor",
                "Give one number",
            )
        return
    needed = updates_needed(training)
    if cohort.quorum < needed:
        tolerated = "" if training.tolerated is None else f" with tolerated = {training.tolerated}"
        raise ConfigurationError(
            "SB-103",
            f"training.strategy {name}{tolerated} needs {needed} updates in every round; cohort.quorum "
            f"is {cohort.quorum}",
            f"Set quorum and min_nodes to {needed} or more"
            + ("" if training.tolerated in (None, 1) else ", or tolerate fewer"),
        )
    if isinstance(batch, dict) and len(batch) < cohort.min_nodes:
        raise ConfigurationError(
            "SB-103",
            f"training.expected_batch_size names {len(batch)} hospitals; cohort.min_nodes is "
            f"{cohort.min_nodes}",
        )


def _check_releases(study: Study, contract: AnyContract) -> None:
    """Refuse releases that cannot be charged.

    Raises:
        ConfigurationError: SB-103 or SB-105.
    """
    evaluation, table, epsilon = study.evaluation, study.table_one, study.privacy.epsilon
    if epsilon == "off" and (evaluation.releases or table is not None):
        raise ConfigurationError(
            "SB-103",
            "evaluation.releases and table_one are charged, and privacy.epsilon is off",
            "Set an epsilon, or release nothing",
        )
    if evaluation.named and isinstance(contract, PhenotypeContract):
        raise ConfigurationError(
            "SB-103", "evaluation.named has no AUROC of ranked diseases to name"
        )
    if evaluation.named and not evaluation.releases:
        raise ConfigurationError(
            "SB-103", "evaluation.named needs evaluation.releases of at least 1"
        )
    if evaluation.releases and evaluation.split.by != "patient" and evaluation.epsilon is None:
        raise ConfigurationError(
            "SB-103",
            f"evaluation.split is by {evaluation.split.by}, so training and evaluation are charged to the same "
            "patients, and evaluation.epsilon is not set",
            "Set evaluation.epsilon to a part of privacy.epsilon; the training gets the rest",
        )
    shares = {"evaluation.epsilon": evaluation.epsilon}
    if table is not None:
        shares["table_one.epsilon"] = table.epsilon
    for name, share in shares.items():
        if share is not None and epsilon != "off" and not 0 < share <= epsilon:
            raise ConfigurationError(
                "SB-105", f"{name} is {share:g}; it is part of privacy.epsilon ({epsilon:g})"
            )
    _check_names("evaluation.subgroups", evaluation.subgroups, contract)
    if table is not None:
        _check_names("table_one.variables", table.variables, contract)


def _check_names(key: str, names: tuple[str, ...], contract: AnyContract) -> None:
    """Refuse variables that the contract does not have.

    Raises:
        ConfigurationError: SB-103.
    """
    unknown = sorted(set(names) - describable(contract))
    if unknown or len(set(names)) != len(names):
        raise ConfigurationError(
            "SB-103",
            f"{key} must name variables of the contract, each once"
            + (f"; unknown: {', '.join(unknown)}" if unknown else ""),
        )
