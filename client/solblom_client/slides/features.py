"""Which slides a study reads at this hospital, and how."""

from collections.abc import Callable

from solblom_client.policy import NodeConfig, fitting_dataset
from solblom_client.slides.bags import MadeBags, make_bags
from solblom_models.slide_mil.task import bag_contract
from solblom_models.task import find_task
from solblom_models.tile_classification.task import TileClassification
from solblom_protocol.errors import ConfigurationError
from solblom_protocol.studies.study import StudyDocument


def make_features(
    config: NodeConfig,
    document: StudyDocument,
    *,
    processes: int,
    progress: Callable[[int, int], None],
) -> MadeBags:
    """Make the bags that a study reads from this hospital's slides.

    Raises:
        ConfigurationError: SB-103 no data set of slides, or a study whose features come from elsewhere; SB-106 a
            contract of something else; SB-118 or SB-119.
        DataError: SB-301, SB-302 or SB-307, of the index of slides.
        IntegrityError: SB-405.
    """
    task = find_task(document.study.task.name)
    contract = bag_contract(document)
    if contract.encoder.kind == "external":
        raise ConfigurationError(
            "SB-103",
            f"The study reads features that the encoder {contract.encoder.name} made outside Solblom",
            'Make them with that tool, and name their index with connector = "bags"',
        )
    dataset = fitting_dataset(config, task.connector)
    if dataset.connector != "slides":
        raise ConfigurationError(
            "SB-103",
            f"The data set {dataset.name} of node.toml has bags already, no slides",
            'Set connector = "slides", path to an index of slides and features to a folder',
        )
    return make_bags(
        config,
        dataset,
        contract,
        labelled_tiles=isinstance(task, TileClassification),
        processes=processes,
        progress=progress,
    )
