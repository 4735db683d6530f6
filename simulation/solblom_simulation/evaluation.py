"""Exact evaluation in a simulation: who of each hospital is tested, and by which kind of report."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from solblom_client.approvals.approval import read_approval
from solblom_client.budget.ledger import STATE_FILE
from solblom_client.cohorts.cohort import join_cohort
from solblom_client.connectors.sources import open_source
from solblom_client.keys import read_node_keys
from solblom_client.policy import NodeConfig, load_node_config
from solblom_client.state import VaultState
from solblom_client.store import Store
from solblom_client.vault import utc_now
from solblom_models.phenotype.cases import CaseUnits
from solblom_models.slide_mil.bags import BagUnits
from solblom_models.tabular.data import TableUnits
from solblom_models.tabular.table_one import cells_of
from solblom_models.task import has_one_label
from solblom_models.tile_classification.tiles import TileUnits
from solblom_protocol.errors import DataError, SolblomError
from solblom_protocol.studies.study import StudyDocument
from solblom_simulation.ranking_evaluation import CaseData, evaluate_rankings
from solblom_simulation.slide_evaluation import evaluate_slides
from solblom_simulation.table_evaluation import SiteData, evaluate
from solblom_simulation.tile_evaluation import TileData, evaluate_tiles

AnyData = SiteData | CaseData | TileData


class NotEvaluatedError(Exception):
    """A model or a hospital cannot be evaluated exactly; the text says why."""


def evaluate_nodes(
    nodes: list[Path],
    document: StudyDocument,
    weights: bytes,
    sites: Collection[str],
    left_out: dict[str, str],
) -> dict[str, Any]:
    """Return the exact report over the hospitals that took part; what is not evaluated has a reason.

    Never raises for what it finds: the model is trained by now, and is released with or without
    figures.

    Args:
        nodes: node.toml of every simulated hospital.
        document: the study.
        weights: the final model, flat little-endian float32.
        sites: hospitals that gave an update in the run.
        left_out: the other hospitals of the run, and why they gave none.
    """
    found: list[AnyData] = []
    reasons = dict(left_out)
    try:
        for node in nodes:
            site = load_node_config(node).node.site
            if site in sites:
                try:
                    found.append(read_any_site(node, document))
                except SolblomError as error:
                    reasons[site] = f"cannot be evaluated now ({error.code})"
        if not found:
            raise NotEvaluatedError("no hospital that took part can be evaluated now")
        report = _evaluate_any(document, weights, found)
    except NotEvaluatedError as error:
        report = _not_done(str(error))
    except Exception as error:  # a plugged-in task may do anything
        report = _not_done(f"the evaluation failed ({type(error).__name__})")
    report["left_out"] = [{"site": site, "reason": reasons[site]} for site in sorted(reasons)]
    return report


def _not_done(reason: str) -> dict[str, Any]:
    return {
        "schema": "solblom.evaluation/1",
        "simulation": True,
        "kind": "not done",
        "reason": reason,
        "sites": [],
        "all": {},
    }


def _evaluate_any(document: StudyDocument, weights: bytes, found: list[AnyData]) -> dict[str, Any]:
    tables = [site for site in found if isinstance(site, SiteData)]
    if len(tables) == len(found):
        bags = all(isinstance(site.test, BagUnits) for site in tables)
        return (evaluate_slides if bags else evaluate)(document, weights, tables)
    cases = [site for site in found if isinstance(site, CaseData)]
    if len(cases) == len(found):
        return evaluate_rankings(document, weights, cases)
    tiles = [site for site in found if isinstance(site, TileData)]
    if len(tiles) == len(found):
        return evaluate_tiles(document, weights, tiles)
    raise NotEvaluatedError("some hospitals' patients are of another kind than others'")


def read_site(node: Path, document: StudyDocument) -> SiteData:
    """Return a simulated hospital's patients of a table.

    Raises:
        SolblomError: the approval, the data or the consents do not hold now.
        NotEvaluatedError: the task's patients are no tables.
    """
    found = read_any_site(node, document)
    if not isinstance(found, SiteData):
        raise NotEvaluatedError(f"the patients of {found.site} are no tables")
    return found


def read_any_site(node: Path, document: StudyDocument) -> AnyData:
    """Return a simulated hospital's training and test patients, by the node's own rules.

    Raises:
        SolblomError: the approval, the data or the consents do not hold now.
        NotEvaluatedError: the task's patients are neither tables, cases, bags nor tiles.
    """
    config = load_node_config(node)
    keys = read_node_keys(config.state)
    approval = read_approval(config, keys, document.digest)
    source = open_source(config, approval.dataset, document.contract)
    units = approval.task.read_units(source, document)
    if not isinstance(units, TableUnits | CaseUnits | BagUnits | TileUnits):
        raise NotEvaluatedError(
            f"the patients of the task {approval.task.name} are neither tables, cases, bags nor tiles, "
            "and this version evaluates no others"
        )
    cohort = join_cohort(config, keys, document, units, now=utc_now())
    training, test, site = cohort.training, cohort.test, config.node.site
    if not test.ids:
        raise DataError("SB-306", "There are no test patients")
    if has_one_label(training):
        raise DataError("SB-305", "All patients of the training set have the same label")
    if isinstance(training, TableUnits) and isinstance(test, TableUnits):
        groups = document.study.evaluation.subgroups
        cells = cells_of(source, test.ids, document, groups)
        return SiteData(site, training, test, _kept_there(config, document), cells)
    if isinstance(training, BagUnits) and isinstance(test, BagUnits):
        return SiteData(site, training, test)
    if isinstance(training, TileUnits) and isinstance(test, TileUnits):
        return TileData(site, training, test)
    if isinstance(training, CaseUnits) and isinstance(test, CaseUnits):
        return CaseData(site, training, test, cohort.notes)
    raise NotEvaluatedError(f"parts of the patients of {site} are of another kind than the whole")


def _kept_there(config: NodeConfig, document: StudyDocument) -> bytes:
    """Return the parameters that a simulated hospital keeps, as the study's newest run left them."""
    state = VaultState(config.state / STATE_FILE)
    try:
        return Store(state).newest_local_parameters(document.digest)
    finally:
        state.close()
