"""A round's cohort against today's data, years later: needs no approval, no noise root and no coordinator."""

from solblom_client.approvals.record import approval_folder
from solblom_client.cohorts.record import (
    FrozenCohort,
    Rebuilt,
    frozen_cohorts,
    read_manifest,
    rebuild,
    row_digests,
)
from solblom_client.connectors.sources import open_source
from solblom_client.policy import NodeConfig
from solblom_client.state import VaultState
from solblom_models.task import find_task
from solblom_protocol.errors import ConfigurationError, IntegrityError
from solblom_protocol.studies.study import StudyDocument, parse_document, study_payload


def find_cohort(state: VaultState, which: str) -> FrozenCohort:
    """Return the cohort of a piece of work, by the digest of the work or of its receipt.

    Raises:
        ConfigurationError: SB-103, none on record has it.
    """
    found = [record for record in frozen_cohorts(state) if which in (record.work, record.receipt)]
    if not found:
        raise ConfigurationError("SB-103", "No cohort on record has this digest")
    return found[0]


def rebuild_today(config: NodeConfig, state: VaultState, record: FrozenCohort) -> Rebuilt:
    """Read the data set as the study's contract says, and compare row by row. Consent plays no part: nothing is used.

    Raises:
        ConfigurationError: SB-103, the data set is no longer in node.toml.
        DataError: the data no longer obey the contract.
        IntegrityError: SB-405 or SB-407, the stored study or the manifest is not the round's.
    """
    document = _study(config, record)
    datasets = {dataset.name: dataset for dataset in config.dataset}
    if record.dataset not in datasets:
        raise ConfigurationError("SB-103", f"The data set {record.dataset} is not in node.toml")
    source = open_source(config, datasets[record.dataset], document.contract)
    units = find_task(document.study.task.name).read_units(source, document)
    return rebuild(read_manifest(state, record), row_digests(units))


def _study(config: NodeConfig, record: FrozenCohort) -> StudyDocument:
    """Return the study: its digest stands in the record, so no signature is needed any more."""
    path = approval_folder(config, record.study) / "study.dsse.json"
    try:
        document = parse_document(study_payload(path.read_bytes()))
    except OSError:
        raise IntegrityError(
            "SB-405", "The study of the cohort is not in the state folder"
        ) from None
    if document.digest != record.study:
        raise IntegrityError("SB-405", "The stored study is not the one of the cohort")
    return document
