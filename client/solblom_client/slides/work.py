"""What the worker does with one slide: features into a file, or a reason that names nothing of it."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from solblom_models.slide_mil.bag_file import write_bag
from solblom_models.slides.annotations import tile_codes
from solblom_models.slides.slide import open_slide
from solblom_models.slides.slide_error import SlideError
from solblom_models.slides.slide_features import SlideFeatures, slide_features
from solblom_models.tile_encoder.encoder_file import open_encoder
from solblom_protocol.contracts.bags import BagContract
from solblom_protocol.errors import ConfigurationError


class SlideWork:
    """One contract and its encoder, loaded once, for many slides."""

    def __init__(self, contract: str, encoder_file: str | None) -> None:
        """Load the encoder.

        Args:
            contract: as JSON.
            encoder_file: of weights, as this hospital lists it.

        Raises:
            ConfigurationError: SB-118 or SB-119.
            IntegrityError: SB-405.
        """
        self._contract = BagContract.model_validate_json(contract)
        kind, file = (
            self._contract.encoder.kind,
            None if encoder_file is None else Path(encoder_file),
        )
        self._encode = None if kind == "pixels" else open_encoder(self._contract.encoder, file)

    def one(self, slide: Path, out: Path, annotations: Path | None) -> dict[str, Any]:
        """Return the facts of a slide whose features were written to `out`, or the problem that it has."""
        try:
            return self._made(slide, out, annotations)
        except SlideError as error:
            return {"problem": str(error)}
        except MemoryError:
            return {"problem": "it needs more memory than vault.memory_gib allows"}
        except OSError as error:
            return {"problem": f"its features cannot be written: {error.strerror}"}
        except ConfigurationError as error:
            return {"error": [error.code, error.message, error.hint]}
        except Exception as error:  # whatever a decoder or an encoder from outside does
            return {"problem": f"reading it failed ({type(error).__name__})"}

    def _made(self, slide: Path, out: Path, annotations: Path | None) -> dict[str, Any]:
        cutting = self._contract.cutting
        assumed = cutting.assumed_microns_per_pixel
        with open_slide(slide, assumed_microns_per_pixel=assumed) as opened:
            found = slide_features(opened, self._contract, self._encode)
        if found.values.dtype != np.uint8 and not bool(np.isfinite(found.values).all()):
            raise SlideError("the encoder gives numbers that are not finite")
        labels = None
        if annotations is not None:
            found, codes = _labelled(found, self._codes(annotations, found))
            labels = self._contract.target.column, codes
        part = out.with_name(f"{out.name}.{os.getpid()}.part")
        write_bag(
            part,
            found.values,
            found.coords,
            recipe=str(self._contract.recipe),
            side=found.grid.side,
            facts=asdict(found.facts),
            labels=labels,
        )
        part.replace(out)
        return {"facts": asdict(found.facts)}

    def _codes(self, annotations: Path, found: SlideFeatures) -> list[str | None]:
        """Return a code for each tile of the grid; None where nobody says."""
        return tile_codes(
            annotations,
            found.grid.middles
            - np.array(found.origin),  # outlines count from where QuPath's picture begins
            codes=tuple(self._contract.target.codes),
            elsewhere=self._contract.cutting.unannotated,
        )


def _labelled(found: SlideFeatures, labels: list[str | None]) -> tuple[SlideFeatures, list[str]]:
    """Return the tiles that have a code, and their codes, view by view.

    Raises:
        SlideError: no tile has one.
    """
    known = [place for place, code in enumerate(labels) if code is not None]
    if not known:
        raise SlideError("no tile lies in an annotation that the contract knows")
    codes = [code for code in labels if code is not None]
    return found.only(known), codes * found.views
