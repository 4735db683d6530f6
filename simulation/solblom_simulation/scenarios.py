"""What a demo can show: whose data, which task, and what the screen says of them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from solblom_models.phenotype.knowledge import release_of
from solblom_protocol.console import say
from solblom_protocol.contracts.kinds import contract_as, read_contract
from solblom_protocol.contracts.phenopackets import PhenotypeContract
from solblom_simulation.hospitals import CASES, SLIDES, TABLES, DataKind, heart_tables
from solblom_simulation.rare_disease import HOSPITALS, write_hospitals
from solblom_simulation.slides import HOSPITALS as SLIDE_HOSPITALS
from solblom_simulation.slides import write_slide_hospitals

TUNED_ON_HEART = """\
[tuning]
configurations_tried = 790             # how the demo's settings were chosen: docs/concepts/heart-disease.md
tried_on = "same-patients"             # public | mock | same-patients; stands in the privacy statement
"""
TUNED_ON_PUBLISHED_CASES = """\
[tuning]
configurations_tried = 1700            # on published cases, none of them here: docs/concepts/rare-disease.md
tried_on = "public"                    # public | mock | same-patients; stands in the privacy statement
"""
TUNED_ON_OTHER_SLIDES = """\
[tuning]
configurations_tried = 64              # on generated slides of another seed: docs/concepts/whole-slides.md
tried_on = "mock"                      # public | mock | same-patients; stands in the privacy statement
"""
MADE_UP = sum(hospital.patients for hospital in SLIDE_HOSPITALS.values())


@dataclass(frozen=True)
class Scenario:
    """One demo.

    Attributes:
        name: what a person types.
        study: name of its study.
        kind: what the hospitals hold, and the task.
        rounds: how many there must be; None where a person may choose.
        tuning: the study's table of that name.
        banner: what the data are, on the screen.
        example: a hospital that printed commands name.
        files: gives the hospitals' files or folders by site, from where they may go, the contract and a public seed.
        default_rounds: where a person may choose and does not.
        patients: of one hospital, about; see TemplateValues.
        min_patients: of a training set.
        wording: what stands in the template, and what the demo says instead.
        drawing: what is said while data are made; empty where that is quick.
    """

    name: str
    study: str
    kind: DataKind
    rounds: int | None
    tuning: str
    banner: str
    example: str
    files: Callable[[Path, Path, int], dict[str, Path]]
    default_rounds: int = 10
    patients: float = 150.0
    min_patients: int = 20
    wording: tuple[tuple[str, str], ...] = ()
    drawing: str = ""


def _heart(folder: Path, contract: Path, seed: int) -> dict[str, Path]:
    return heart_tables()


def _rare(folder: Path, contract: Path, seed: int) -> dict[str, Path]:
    found = contract_as(PhenotypeContract, read_contract(contract), task=CASES.task)
    names = {disease.id: disease.name for disease in found.target.diseases}
    ontology, annotations = release_of(found.ontology)
    return write_hospitals(folder, ontology, annotations, names, seed=seed)


def _slides(folder: Path, contract: Path, seed: int) -> dict[str, Path]:
    return write_slide_hospitals(folder, seed=seed, progress=_told)


def _told(done: int, whole: int) -> None:
    """Say how far the slides are, a line for each fifth."""
    if done * 5 // whole > (done - 1) * 5 // whole:
        say(f"{done} of {whole} slides are painted")


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            name="heart",
            study="heart-disease",
            kind=TABLES,
            rounds=None,
            tuning=TUNED_ON_HEART,
            banner="four real hospitals' public data, one machine",
            example="va",
            files=_heart,
        ),
        Scenario(
            name="rare-disease",
            study="rare-disease",
            kind=CASES,
            rounds=1,
            tuning=TUNED_ON_PUBLISHED_CASES,
            banner=f"{sum(HOSPITALS.values())} made-up patients in four made-up hospitals, one machine",
            example="tromso",
            files=_rare,
        ),
        Scenario(
            name="histology",
            study="tumour-slides",
            kind=SLIDES,
            rounds=None,
            tuning=TUNED_ON_OTHER_SLIDES,
            banner=f"generated slides of {MADE_UP} made-up patients in four made-up hospitals, one machine",
            example="bergen",
            files=_slides,
            default_rounds=20,
            patients=32.0,
            min_patients=10,
            wording=(
                (
                    "WHAT THE STUDY IS ABOUT",
                    "Lesions on generated slides of four made-up hospitals",
                ),
                ("WHAT THE MODEL IS FOR, IN WORDS THAT A HOSPITAL CAN APPROVE", "Demonstration"),
                ("NUMBER OF THE APPROVAL", "none needed: generated images"),
                ("WHAT IS PREDICTED", "lesion"),
                ("HVA SOM FORUTSIES", "lesjon"),
            ),
            drawing="Painting about two hundred small whole-slide images: synthetic, nobody's tissue",
        ),
    )
}
