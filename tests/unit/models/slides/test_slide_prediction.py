"""What a model says of slides: nothing of a broken encoder or slide becomes an answer, and pictures say the answer."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slide_hospital_lab import slide_contract, slide_study, write_slide
from slide_lab import tissue_picture, write_tiff
from solblom_models.artefact import LoadedModel
from solblom_models.predict import Wanted, check_new_files, slide_predictions
from solblom_models.slides import prediction
from solblom_models.slides.prediction import SlidePrediction, predict_slides, titles
from solblom_models.task import find_task
from solblom_protocol.errors import ConfigurationError, RunError

NAME = "OLSEN-1944"


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    document = slide_study(contract=slide_contract())
    task = find_task("slide-mil")
    return LoadedModel(task.build(document), task, document, {"simulation": True})


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    path = tmp_path / f"{NAME}.tiff"
    write_slide(path, seed=1)
    return path


def refusal(model: LoadedModel, *slides: Path) -> str:
    with pytest.raises(RunError) as caught:
        predict_slides(model, slides, encoder_file=None)
    assert caught.value.code == "SB-506"
    assert NAME not in caught.value.message
    return caught.value.message


def encoding(monkeypatch: pytest.MonkeyPatch, encode: Any) -> None:
    """Let an encoder file that was listed and tried do something else on a real slide."""
    monkeypatch.setattr(prediction, "open_encoder", lambda *_, **__: encode)


def test_numbers_that_are_none_are_no_answer(
    model: LoadedModel, slide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoding(monkeypatch, lambda tiles: np.full((len(tiles), 80), np.nan, dtype=np.float32))
    assert refusal(model, slide) == (
        "The slide cannot be used: the encoder gives numbers that are not finite"
    )


def test_whatever_an_encoder_or_a_decoder_raises_is_one_refusal(
    model: LoadedModel, slide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(tiles: Any) -> Any:
        raise ZeroDivisionError(NAME)

    encoding(monkeypatch, fails)
    assert refusal(model, slide, slide) == (
        "Slide 1 of 2 cannot be used: reading it failed (ZeroDivisionError)"
    )


def test_a_slide_that_is_given_twice_is_told(model: LoadedModel, slide: Path) -> None:
    found = predict_slides(model, [slide, slide], encoder_file=None)
    assert "A slide is given twice, and counts twice" in found.warnings
    assert not predict_slides(model, [slide], encoder_file=None).warnings


def test_a_model_of_a_simulation_says_so(model: LoadedModel, slide: Path) -> None:
    wanted = Wanted(None, "patient_id", None, 1, slides=(slide,))
    found = slide_predictions(model, "sha256:0", "lab@v1", wanted)
    assert "It was trained in a simulation" in found.warnings


def test_pictures_name_the_answer_and_which_slide_it_is(model: LoadedModel, slide: Path) -> None:
    found = predict_slides(model, [slide, slide], encoder_file=None)
    assert titles(found, "lab@v1", "tumour") == [
        f"lab@v1: probability of “tumour” {found.probability:.3f} for the patient (slide {n} of 2)"
        for n in (1, 2)
    ]
    one = SlidePrediction(0.25, "probability", found.slides[:1], ())
    assert titles(one, "lab@v1", "tumour") == [
        "lab@v1: probability of “tumour” 0.250 in the highest tile"
    ]


@pytest.mark.parametrize(
    ("there", "heatmap"),
    [("map.png", "map.png"), ("map.geojson", "map.png"), ("map-2-tiles.png", "map.png")],
)
def test_a_file_that_exists_is_told_before_hours_of_reading(
    tmp_path: Path, there: str, heatmap: str
) -> None:
    (tmp_path / there).write_bytes(b"mine")
    with pytest.raises(ConfigurationError) as caught:
        check_new_files(tmp_path / heatmap, None, slides=2)
    assert caught.value.code == "SB-113"
    check_new_files(tmp_path / "other.png", tmp_path / "receipt.json", slides=2)


def test_a_receipt_that_exists_and_a_picture_of_another_kind_are_told_first(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_bytes(b"{}")
    with pytest.raises(ConfigurationError, match="exists already"):
        check_new_files(None, tmp_path / "r.json", slides=1)
    with pytest.raises(ConfigurationError, match="writes a PNG"):
        check_new_files(tmp_path / "map.jpg", None, slides=1)
    with pytest.raises(ConfigurationError, match="belongs to --slide"):
        check_new_files(tmp_path / "map.png", None, slides=0)


def test_a_slide_that_changes_while_it_is_read_is_no_answer(
    model: LoadedModel, slide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The receipt's digest would be of another file than the answer."""
    whole = prediction.slide_features

    def changed(*given: Any) -> Any:
        found = whole(*given)
        picture = tissue_picture(384, 384, left=10, top=10, right=300, bottom=300, seed=2)
        write_tiff(slide, picture, 1.0)
        return found

    monkeypatch.setattr(prediction, "slide_features", changed)
    assert refusal(model, slide) == "The slide cannot be used: it changed while it was read"
