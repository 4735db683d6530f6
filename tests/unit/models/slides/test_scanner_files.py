"""Files as each scanner lays them out are opened by their microns per pixel and show the pixels that went in."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import openslide
import pytest

from scanner_lab import MICRONS, write_dicom, write_ndpi, write_scn, write_ventana
from solblom_models.slides.slide import open_slide
from solblom_models.slides.slide_error import SlideError

ROWS, COLUMNS = np.mgrid[0:512, 0:768]
WAVES = 120 + 40 * np.sin(COLUMNS / 30) * np.cos(ROWS / 25)
PICTURE = np.stack([100 + COLUMNS / 8, 200 - ROWS / 8, WAVES], axis=-1).astype(np.uint8)

Write = Callable[[Path, np.ndarray], Path]


def write_bif(path: Path, pixels: np.ndarray) -> Path:
    return write_ventana(path, pixels, stitched=True)


@pytest.mark.parametrize(
    ("name", "vendor", "write"),
    [
        ("a.ndpi", "hamamatsu", write_ndpi),
        ("a.scn", "leica", write_scn),
        ("a.tif", "ventana", write_ventana),
        ("a.bif", "ventana", write_bif),
        ("a.dcm", "dicom", write_dicom),
    ],
)
def test_a_scanners_file_is_read_at_its_resolution_and_its_place(
    tmp_path: Path, name: str, vendor: str, write: Write
) -> None:
    path = write(tmp_path / name, PICTURE)
    with openslide.OpenSlide(path) as opened:
        assert opened.properties["openslide.vendor"] == vendor
        carries_macro = "macro" in opened.associated_images
    with open_slide(path) as slide:
        assert slide.microns_per_pixel == pytest.approx(MICRONS, rel=1e-3)
        assert ("a macro image" in slide.warnings) == carries_macro
        whole = slide.read(*slide.origin, 768, 512, MICRONS)
        half = slide.read(*slide.origin, 384, 256, 2 * MICRONS)
    assert np.abs(whole.astype(int) - PICTURE).mean() < 1
    means = PICTURE.reshape(256, 2, 384, 2, 3).mean(axis=(1, 3))
    assert np.abs(half - means).mean() < 2


def test_a_bif_that_does_not_say_how_its_rows_lie_is_refused(tmp_path: Path) -> None:
    """OpenSlide 4.0.1 opens it, with a height of -2^63; to make an overview of that had no end."""
    path = write_ventana(tmp_path / "a.bif", PICTURE, stitched=True, upwards=False)
    with pytest.raises(SlideError, match="no plausible size"):
        open_slide(path)


def read_all(path: Path) -> None:
    with open_slide(path) as slide:
        slide.overview(4.0)
        slide.read(0, 0, 768, 512, MICRONS)


@pytest.mark.parametrize("write", [write_ndpi, write_scn, write_bif, write_dicom])
def test_half_of_a_scanners_file_is_refused_in_words_of_ours(tmp_path: Path, write: Write) -> None:
    whole = write(tmp_path / "OLSEN.tif", PICTURE).read_bytes()
    for share in (0.1, 0.5, 0.9):
        (tmp_path / "OLSEN.tif").write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(SlideError) as caught:
            read_all(tmp_path / "OLSEN.tif")
        assert "OLSEN" not in str(caught.value)
