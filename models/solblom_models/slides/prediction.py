"""What a model says of a patient's slides, and how much each tile had to do with it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from solblom_models.artefact import LoadedModel
from solblom_models.slide_mil.bags import evenly, standardised
from solblom_models.slides.evidence import ranked, tile_evidence, tile_scores
from solblom_models.slides.heatmap import limits_of
from solblom_models.slides.slide import open_slide
from solblom_models.slides.slide_error import SlideError
from solblom_models.slides.slide_features import SlideFeatures, slide_features
from solblom_models.slides.slide_files import slide_files
from solblom_models.slides.slide_pictures import KINDS, Kind, write_pictures
from solblom_models.tile_encoder.encoder_file import Encode, open_encoder
from solblom_protocol.contracts.bags import BagContract
from solblom_protocol.errors import RunError, SolblomError
from solblom_verify.wording import counted

SHOWN_TILES = 5
TASKS: dict[str, Kind] = {"slide-mil": "evidence", "tile-classification": "probability"}


@dataclass(frozen=True)
class ScoredSlide:
    """One slide: its tiles, and a score for each.

    Attributes:
        path: of the slide.
        features: of its tiles.
        scores: shape (N,); evidence for slide-mil, probability for tile-classification.
    """

    path: Path
    features: SlideFeatures
    scores: NDArray[np.float64]


@dataclass(frozen=True)
class SlidePrediction:
    """One patient, all slides.

    Attributes:
        probability: of yes; for tile-classification that of the likeliest tile.
        kind: of the tiles' scores.
        slides: in the order given.
        warnings: that belong beside the answer.
    """

    probability: float
    kind: Kind
    slides: tuple[ScoredSlide, ...]
    warnings: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return what is printed with --json; places are pixels of the slide's largest level."""
        return {
            "probability": round(self.probability, 6),
            "tile_score": self.kind,
            "slides": [_slide_json(slide) for slide in self.slides],
        }


def predict_slides(
    model: LoadedModel, paths: Sequence[Path], *, encoder_file: Path | None, device: str = "cpu"
) -> SlidePrediction:
    """Return what a model says of one patient's slides.

    Raises:
        ConfigurationError: SB-118 or SB-119.
        IntegrityError: SB-405, the encoder is not the one of the model's contract.
        RunError: SB-506, the model reads no slides, or a slide cannot be used.
    """
    contract = _contract(model)
    encoder = contract.encoder
    encode = (
        None if encoder.kind == "pixels" else open_encoder(encoder, encoder_file, device=device)
    )
    read = []
    for number, path in enumerate(paths, start=1):
        which = "The slide" if len(paths) == 1 else f"Slide {number} of {len(paths)}"
        try:
            read.append(_features(path, contract, encode))
        except SlideError as error:
            raise RunError("SB-506", f"{which} cannot be used: {error}") from None
    bags = [standardised(_numbers(found.values), encoder) for found in read]
    bag = torch.from_numpy(np.concatenate(bags))
    if len(bag) < contract.bag.min_tiles:
        told = f"{counted(len(bag), 'tile')}; the contract asks for {contract.bag.min_tiles}"
        raise RunError("SB-506", f"The slides have {told}")
    kind = TASKS[model.task.name]
    scores = _scores(model, bag, kind)
    parts = np.split(scores, np.cumsum([len(b) for b in bags])[:-1])
    slides = tuple(
        ScoredSlide(path, found, part.reshape(found.views, -1).mean(axis=0))
        for path, found, part in zip(paths, read, parts, strict=True)
    )
    if kind == "probability":  # what the heatmap shows: of a tile's views their mean
        probability = float(max(slide.scores.max() for slide in slides))
    else:
        probability = _probability(model, bag, contract)
    warnings = _warnings(slides, len(bag), contract)
    if len({path.resolve() for path in paths}) < len(paths):
        warnings.append("A slide is given twice, and counts twice")
    return SlidePrediction(probability, kind, slides, tuple(warnings))


def titles(found: SlidePrediction, ref: str, answer: str) -> list[str]:
    """Return what stands above the pictures of each slide: the model, its answer, and which slide it is."""
    whose = "for the patient" if found.kind == "evidence" else "in the highest tile"
    said = f"{ref}: probability of “{answer}” {found.probability:.3f} {whose}"
    count = len(found.slides)
    return [said if count == 1 else f"{said} (slide {n} of {count})" for n in range(1, count + 1)]


def heatmap_paths(out: Path, slides: int) -> list[Path]:
    """Return where the heatmap of each slide goes; the second slide's end in -2, and so on."""
    return [out, *(out.with_name(f"{out.stem}-{n}{out.suffix}") for n in range(2, slides + 1))]


def write_heatmaps(
    found: SlidePrediction, model: LoadedModel, out: Path, *, ref: str
) -> list[Path]:
    """Write heatmap, gallery and GeoJSON of each slide, see `heatmap_paths`.

    Raises:
        ConfigurationError: SB-113, a file exists.
    """
    contract = _contract(model)
    written: list[Path] = []
    answer = contract.target.meaning.en
    # One scale for all slides of the patient: a colour means the same everywhere.
    limits = limits_of(
        np.concatenate([s.scores for s in found.slides]), scale=KINDS[found.kind].scale
    )
    paths = heatmap_paths(out, len(found.slides))
    for scored, path, title in zip(found.slides, paths, titles(found, ref, answer), strict=True):
        assumed = contract.cutting.assumed_microns_per_pixel
        grid = scored.features.grid
        with open_slide(scored.path, assumed_microns_per_pixel=assumed) as slide:
            written += write_pictures(
                slide,
                grid.places,
                grid.side,
                scored.scores,
                kind=found.kind,
                out=path,
                title=title,
                answer=answer,
                limits=limits,
            )
    return written


def _features(path: Path, contract: BagContract, encode: Encode | None) -> SlideFeatures:
    """Return a slide's features, whatever its file or the encoder's does.

    Raises:
        SlideError: it cannot be used, or changed meanwhile; the words name nothing of it.
        ConfigurationError: SB-118.
    """
    try:
        before = _state(path)
        assumed = contract.cutting.assumed_microns_per_pixel
        with open_slide(path, assumed_microns_per_pixel=assumed) as slide:
            found = slide_features(slide, contract, encode)
        after = _state(path)
    except (SlideError, SolblomError):
        raise
    except Exception as error:  # of a decoder or an encoder from outside, and its words too
        raise SlideError(f"reading it failed ({type(error).__name__})") from None
    if after != before:  # the receipt's digest would be of another file than the answer
        raise SlideError("it changed while it was read")
    if found.values.dtype != np.uint8 and not bool(np.isfinite(found.values).all()):
        raise SlideError("the encoder gives numbers that are not finite")
    return found


def _state(path: Path) -> list[tuple[int, int, int]]:
    """Return what tells that one of a slide's files was written to or replaced."""
    states = [file.stat() for file in slide_files(path)]
    return [(state.st_ino, state.st_size, state.st_mtime_ns) for state in states]


def _contract(model: LoadedModel) -> BagContract:
    contract = model.contract
    if model.task.name not in TASKS or not isinstance(contract, BagContract):
        raise RunError("SB-506", f"The task {model.task.name} reads no slides")
    if contract.encoder.kind == "external":
        raise RunError(
            "SB-506",
            f"The model reads features that {contract.encoder.name} made outside Solblom, not slides",
        )
    return contract


def _numbers(values: NDArray[Any]) -> NDArray[np.float32]:
    """Return features as they are, or pixels as the net's numbers (N, 3 P P), channels first, 0 to 1."""
    if values.dtype != np.uint8:
        return values
    return (values.transpose(0, 3, 1, 2).reshape(len(values), -1) / np.float32(255)).astype(
        np.float32
    )


def _scores(model: LoadedModel, bag: torch.Tensor, kind: Kind) -> NDArray[np.float64]:
    """Return a score for each row of the bag."""
    if kind == "probability":
        return tile_scores(model.net, bag)
    return tile_evidence(model.net, bag)[0]


def _probability(model: LoadedModel, bag: torch.Tensor, contract: BagContract) -> float:
    """Return a patient's probability from the bag, thinned as in training."""
    thinned = bag[torch.from_numpy(evenly(len(bag), contract.bag.max_tiles))]
    with torch.no_grad():
        logit = model.net(thinned)[0]
    return float(torch.sigmoid(logit.double()))


def _warnings(slides: Sequence[ScoredSlide], tiles: int, contract: BagContract) -> list[str]:
    found = []
    if tiles > contract.bag.max_tiles:
        found.append(
            f"The model read {contract.bag.max_tiles:,} of {tiles:,} tiles, evenly spread, as in training"
        )
    for kind in dict.fromkeys(kind for slide in slides for kind in slide.features.facts.carries):
        found.append(f"The file carries {kind}: not read")
    blurred = sum(slide.features.facts.blurred for slide in slides)
    used = sum(slide.features.facts.tiles for slide in slides)
    if blurred > used:
        found.append(
            f"Most of the tissue is out of focus: {blurred:,} of {blurred + used:,} tiles were left out"
        )
    return found


def _slide_json(slide: ScoredSlide) -> dict[str, Any]:
    grid = slide.features.grid
    top, bottom = ranked(slide.scores, SHOWN_TILES, places=grid.places, side=grid.side)
    return {
        "facts": asdict(slide.features.facts),
        "tile_side": round(grid.side, 3),
        "highest": [_tile_json(slide, int(index)) for index in top],
        "lowest": [_tile_json(slide, int(index)) for index in bottom],
    }


def _tile_json(slide: ScoredSlide, index: int) -> dict[str, Any]:
    x, y = slide.features.grid.places[index].tolist()
    return {"x": x, "y": y, "score": round(float(slide.scores[index]), 6)}
