"""What the histology demo does beside training: features at each hospital before it, heatmaps after it.

The lesions' places are known here because they were planted: only a simulation can tell how often a heatmap hits.
"""

import datetime as dt
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from solblom_client.cohorts.cohort import join_cohort
from solblom_client.connectors.sources import open_source
from solblom_client.keys import read_node_keys
from solblom_client.policy import load_node_config
from solblom_client.slides.bags import MadeBags
from solblom_client.slides.features import make_features
from solblom_models.artefact import LoadedModel, load
from solblom_models.slide_mil.bag_file import read_bag
from solblom_models.slide_mil.bags import BagUnits, standardised
from solblom_models.slide_mil.task import bag_contract
from solblom_models.slides.evidence import tile_evidence
from solblom_models.slides.hit_rate import HitRate, hit_rate
from solblom_models.slides.slide import open_slide
from solblom_models.slides.slide_pictures import write_pictures
from solblom_protocol.errors import DataError
from solblom_protocol.studies.study import StudyDocument
from solblom_simulation.hospitals import SLIDES, node_files
from solblom_simulation.slides import TRUTH, lesion_share, read_truth

AT_ONCE = 2  # hospitals that read slides at the same time
PICTURES = "heatmaps"  # folder of each hospital


@dataclass(frozen=True)
class Heatmaps:
    """Pictures of test patients, one of each hospital, and how often the highest tiles lie in a planted lesion.

    Attributes:
        files: the pictures, all inside the hospitals' folders.
        hits: over all test patients' slides with a lesion; None without any.
    """

    files: tuple[Path, ...]
    hits: HitRate | None

    def as_json(self) -> dict[str, Any]:
        """Return what `solblom.demo/1` says of them."""
        hits = None if self.hits is None else asdict(self.hits)
        return {"files": [str(path) for path in self.files], "planted_lesions": hits}


@dataclass(frozen=True)
class _Shown:
    """A test patient's slide with a planted lesion, its tiles' evidence and what share of each is lesion."""

    slide: Path
    places: NDArray[np.int64]
    side: float
    evidence: NDArray[np.float64]
    lesion: NDArray[np.float64]


def prepare_slides(
    home: Path, document: StudyDocument, *, say: Callable[[str], None]
) -> dict[str, MadeBags]:
    """Let every simulated hospital make its features, as `solblom node features` does; return them by site.

    Raises:
        DataError: SB-307, a hospital's generated slide cannot be used.
        SolblomError: a worker cannot start.
    """

    def one(node: Path) -> tuple[str, MadeBags]:
        config = load_node_config(node)
        made = make_features(config, document, processes=1, progress=lambda done, whole: None)
        tiles = sum(facts.tiles for facts in made.facts.values())
        say(f"{config.node.site}: {len(made.facts)} slides became {tiles:,} tiles")
        return config.node.site, made

    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = dict(pool.map(one, node_files(home)))
    for site, made in found.items():
        if made.problems:
            line = min(made.problems)
            raise DataError("SB-307", f"{site}, slide in line {line}: {made.problems[line]}")
    return found


def draw_heatmaps(
    home: Path,
    folder: Path,
    made: dict[str, MadeBags],
    *,
    now: dt.datetime,
    say: Callable[[str], None],
) -> Heatmaps:
    """Draw a test patient's heatmap at each hospital, and count how often the highest tiles hit.

    Args:
        home: of the simulation.
        folder: the model.
        made: each hospital's features.
        now: the present moment.
        say: is told what is done.
    """
    model, files, shown = load(folder), [], []
    for node in node_files(home):
        site = load_node_config(node).node.site
        of_site = _with_lesions(node, model, made[site], now=now)
        shown += of_site
        if of_site:
            say(f"{site}: drawing a heatmap of a test patient; it stays in the hospital's folder")
            files += _drawn(node.parent / PICTURES, of_site[0], model)
    hits = hit_rate([s.evidence for s in shown], [s.lesion for s in shown])
    return Heatmaps(tuple(files), hits)


def _drawn(folder: Path, shown: _Shown, model: LoadedModel) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    with open_slide(shown.slide) as slide:
        return list(
            write_pictures(
                slide,
                shown.places,
                shown.side,
                shown.evidence,
                kind="evidence",
                out=folder / "heatmap.png",
                title="Generated slide, no patient",
                answer=bag_contract(model.document).target.meaning.en,
                footer="SIMULATION",
            )
        )


def _with_lesions(
    node: Path, model: LoadedModel, made: MadeBags, *, now: dt.datetime
) -> list[_Shown]:
    """Return the slides with lesions of a hospital's test patients, the likeliest patient first."""
    config = load_node_config(node)
    contract = bag_contract(model.document)
    dataset = next(d for d in config.dataset if d.connector == SLIDES.connector)
    source = open_source(config, dataset, contract)
    units = model.task.read_units(source, model.document)
    keys = read_node_keys(config.state)
    test = join_cohort(config, keys, model.document, units, now=now).test
    if not isinstance(test, BagUnits):
        raise TypeError("a study of slides has bags")
    scores = dict(zip(test.ids, model.task.scores(model.net, test), strict=True))
    truth = read_truth(config.path(dataset.path).parent / TRUTH)
    found = []
    for row in made.rows:
        name = (
            ""
            if row.slide is None
            else row.slide.relative_to(config.path(dataset.path).parent).as_posix()
        )
        if row.patient in scores and row.slide is not None and truth[name].lesions:
            tiles = read_bag(made.bags[row.line], dim=contract.encoder.dim, recipe=contract.recipe)
            bag = torch.from_numpy(standardised(tiles.features, contract.encoder))
            places = tiles.coords if tiles.coords is not None else np.zeros((0, 2), dtype=np.int64)
            side = contract.encoder.tile_px * contract.encoder.microns_per_pixel
            side /= truth[name].scanner.microns_per_pixel
            evidence, _ = tile_evidence(model.net, bag)
            shares = lesion_share(truth[name], places, side)
            found.append((scores[row.patient], _Shown(row.slide, places, side, evidence, shares)))
    return [shown for _, shown in sorted(found, key=lambda pair: -pair[0])]
