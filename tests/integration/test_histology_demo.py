"""The demo of slides, with fewer and smaller ones: generated and said so, from images to a model and its heatmaps."""

import json
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from integration.demo_run import Solblom
from solblom_protocol.cli import app
from solblom_simulation import slides

PATIENTS = 17  # of each hospital: 30 % are kept for testing, and training needs ten


@dataclass(frozen=True)
class Shown:
    """What the demo printed, and its folder."""

    home: Path
    done: Result

    @property
    def model(self) -> Path:
        return self.home / "models" / "tumour-slides-v1"


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    home = tmp_path_factory.mktemp("histology") / "demo"
    few = {site: replace(found, patients=PATIENTS) for site, found in slides.HOSPITALS.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slides, "HOSPITALS", few)
        patch.setattr(slides, "SIDES_MM", (0.45, 0.5))
        patch.setenv("COLUMNS", "120")
        patch.setattr(sys, "argv", ["solblom", "demo"])  # what the command's own help looks at
        done = CliRunner().invoke(
            app, ["demo", "histology", "--rounds", "2", "--out", str(home)], catch_exceptions=False
        )
    assert done.exit_code == 0, done.stderr
    return Shown(home, done)


def test_the_demo_ends_well_and_says_that_slides_are_generated(shown: Shown) -> None:
    assert shown.done.exit_code == 0, shown.done.stderr
    assert "SIMULATION: generated slides" in shown.done.stdout
    assert "14 of 14 checks" in shown.done.stdout
    assert "by chance" in shown.done.stdout
    assert "synthetic, nobody's tissue" in shown.done.stderr


def test_pictures_stay_in_the_hospitals_folders(shown: Shown) -> None:
    pictures = sorted(shown.home.rglob("*.png"))
    assert pictures
    for picture in pictures:
        assert picture.parent.name == "heatmaps"
        assert picture.parents[2] == shown.home / "sites"
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_model_carries_its_encoder_and_no_name_of_a_slide_or_patient(shown: Shown) -> None:
    manifest = json.loads((shown.model / "manifest.json").read_bytes())
    assert manifest["model"]["encoder"]["name"] == "solblom-texture-1"
    assert "Licence of the encoder: Apache-2.0" in (shown.model / "README.md").read_text("utf-8")
    for file in shown.model.rglob("*"):
        if file.is_file():
            assert (
                re.search(rb"simulated-(bergen|oslo|tromso|trondheim)-\d", file.read_bytes())
                is None
            )
            assert b".tiff" not in file.read_bytes()


def test_the_vault_reads_features_and_its_bags_name_no_slide(shown: Shown) -> None:
    folder = shown.home / "sites" / "oslo" / "features"
    bags = sorted((folder / "bags").glob("*"))
    assert bags
    assert all(re.fullmatch(r"[0-9a-f]{40}\.h5", bag.name) for bag in bags)
    assert all(b"simulated" not in bag.read_bytes() for bag in bags)


def test_a_new_slide_is_predicted_with_heatmap_and_receipt(
    shown: Shown, solblom: Solblom, tmp_path: Path
) -> None:
    slide = shown.home / "generated" / slides.NEW_SLIDE
    asked = ["model", "predict", str(shown.model), "--slide", str(slide), "--json"]
    files = ["--heatmap", str(tmp_path / "map.png"), "--receipt", str(tmp_path / "receipt.json")]
    done = solblom(*asked, *files)
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert 0 < told["probability"] < 1
    assert told["tile_score"] == "evidence"
    (of_slide,) = told["slides"]
    assert of_slide["facts"]["tiles"] > 0
    scores = [tile["score"] for tile in of_slide["highest"]]
    assert scores == sorted(scores, reverse=True)
    assert sorted(path.name for path in tmp_path.glob("map*")) == [
        "map-tiles.png",
        "map.geojson",
        "map.png",
    ]
    receipt = json.loads((tmp_path / "receipt.json").read_bytes())
    assert receipt["schema"] == "solblom.prediction/1"
    assert slides.NEW_SLIDE not in json.dumps(receipt)
    again = solblom(*asked)
    assert json.loads(again.stdout)["probability"] == told["probability"]


def test_two_slides_are_one_patient_and_one_scale(
    shown: Shown, solblom: Solblom, tmp_path: Path
) -> None:
    slide = str(shown.home / "generated" / slides.NEW_SLIDE)
    one = solblom("model", "predict", str(shown.model), "--slide", slide, "--json")
    both = solblom(
        *("model", "predict", str(shown.model), "--slide", slide, "--slide", slide, "--json"),
        *("--heatmap", str(tmp_path / "map.png")),
    )
    assert both.exit_code == 0, both.stderr
    # The mean of a bag twice as large, with the same tiles, is the same.
    probabilities = [json.loads(done.stdout)["probability"] for done in (one, both)]
    assert probabilities[0] == pytest.approx(probabilities[1], abs=1e-5)
    assert (tmp_path / "map-2.png").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--slide", "nothing.svs"], "does not exist"),
        (["--slide", "text.svs"], "cannot be used"),
        (["--input", "text.svs"], "takes --slide"),
        (["--slide", "text.svs", "--input", "text.svs"], "no other input"),
    ],
)
def test_what_is_no_slide_is_refused_with_a_reason(
    shown: Shown, solblom: Solblom, tmp_path: Path, options: list[str], says: str
) -> None:
    (tmp_path / "text.svs").write_text("no slide", encoding="utf-8")
    done = solblom("model", "predict", str(shown.model), *options)
    assert done.exit_code == 3
    assert "SB-506" in done.stderr
    assert says in " ".join(done.stderr.split())
