"""A hospital's slides against the node: names in files and tags stay where they are, decoders are contained."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from lab import LabHospital
from slide_hospital_lab import SIDE, made, slide_hospital, slide_study, write_index, write_slide
from slide_lab import tissue_picture
from solblom_client.cli import app
from solblom_models.slides.slide import open_slide
from solblom_models.slides.slide_error import SlideError
from solblom_protocol.messages.result import Refusal, Result

NAME = "NordmannKari19850101"
"""A name as a scanner or a laboratory puts it into names and tags of files."""
STUDY = slide_study()


def write_named(path: Path, *, seed: int) -> None:
    """Write a slide whose tags hold a name, in every place that a scanner uses."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = tissue_picture(SIDE, SIDE, left=60, top=60, right=330, bottom=330, seed=seed)
    tifffile.imwrite(
        path,
        picture,
        photometric="rgb",
        tile=(128, 128),
        resolution=(10_000, 10_000),
        resolutionunit="CENTIMETER",
        description=f"Aperio {NAME}|Patient = {NAME}|User = {NAME}|AppMag = 20|MPP = 1.0",
        extratags=[(315, "s", 0, NAME, True), (269, "s", 0, NAME, True)],
        metadata=None,
        software=False,
    )


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> LabHospital:
    hospital = slide_hospital(tmp_path_factory.mktemp("named") / "north", patients=1)
    rows: list[tuple[str, ...]] = []
    for number in range(6):
        file = f"{NAME}/{NAME}-{number}.tiff"
        write_named(hospital.folder / file, seed=number)
        rows.append((f"{NAME}-{number}", file, str(number % 2)))
    write_index(hospital.folder / "slides.csv", rows)
    made(hospital, STUDY)
    return hospital


def test_bags_hold_no_name_of_slide_tag_or_patient(named: LabHospital) -> None:
    bags = list((named.folder / "features" / "bags").iterdir())
    assert len(bags) == 6
    for bag in bags:
        assert NAME not in bag.name
        assert NAME.encode() not in bag.read_bytes()


def test_nothing_that_leaves_or_is_logged_holds_a_name(named: LabHospital) -> None:
    named.approve(STUDY)
    sealed = named.vault.process(named.order(STUDY))
    reply = named.read(sealed)
    assert isinstance(reply, Result), reply
    assert NAME.encode() not in reply.receipt.payload() + sealed
    for log in (named.config.state / "log").rglob("*"):
        assert not log.is_file() or NAME.encode() not in log.read_bytes()


def test_a_bag_that_is_damaged_after_approval_is_one_outside_code(named: LabHospital) -> None:
    named.approve(STUDY)
    bag = sorted((named.folder / "features" / "bags").iterdir())[0]
    whole = bag.read_bytes()
    bag.write_bytes(whole[: len(whole) // 2])
    reply = named.ask(named.order(STUDY, run="lab-2"))
    bag.write_bytes(whole)
    assert isinstance(reply, Refusal)
    assert reply.code == "SB-209"
    assert NAME.encode() not in reply.payload()


def test_the_command_names_lines_and_never_what_a_file_is_called(tmp_path: Path) -> None:
    hospital = slide_hospital(tmp_path / "north", patients=1)
    (hospital.folder / f"{NAME}.svs").write_bytes(b"PK\x03\x04" + NAME.encode())
    rows = [("patient-0", "scans/0.tiff", "0"), (NAME, f"{NAME}.svs", "1")]
    write_index(hospital.folder / "slides.csv", [tuple(row) for row in rows])
    study = tmp_path / "study.signed.json"
    study.write_bytes(hospital.sign(STUDY))
    for options in ([], ["--json"]):
        asked = ["features", str(study), "--node", str(hospital.folder), *options]
        done = CliRunner().invoke(app, asked)
        assert done.exit_code == 1
        assert NAME not in done.stdout + done.stderr
        if options:
            told = json.loads(done.stdout)
            assert told["problems"] == [
                {"line": 3, "reason": "it is a zip archive, whatever its name says"}
            ]
        else:
            assert "line 3: it is a zip archive" in done.stderr


def test_what_decoders_say_of_a_file_is_not_repeated(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / f"{NAME}.tiff"
    write_named(path, seed=1)
    whole = path.read_bytes()
    for length in range(0, len(whole), max(len(whole) // 40, 1)):
        path.write_bytes(whole[:length])
        with caplog.at_level(logging.DEBUG), pytest.raises(SlideError) as caught:
            open_slide(path)
        assert NAME not in str(caught.value)
    told = capfd.readouterr()
    assert NAME not in told.out + told.err + caplog.text


def test_a_study_that_no_known_researcher_signed_reads_no_slide(tmp_path: Path) -> None:
    hospital = slide_hospital(tmp_path / "north", patients=1)
    stranger = LabHospital(tmp_path / "south")
    study = tmp_path / "study.signed.json"
    study.write_bytes(stranger.sign(STUDY))
    done = CliRunner().invoke(
        app, ["features", str(study), "--node", str(hospital.folder), "--json"]
    )
    assert done.exit_code == 5
    assert not (hospital.folder / "features").exists()


def test_pixels_of_other_kinds_than_rgb_bytes_are_left_out(tmp_path: Path) -> None:
    hospital = slide_hospital(tmp_path / "north", patients=1)
    grey = np.full((SIDE, SIDE), 90, dtype=np.uint8)
    tifffile.imwrite(hospital.folder / "grey.tiff", grey, tile=(128, 128), photometric="minisblack")
    deep = np.full((SIDE, SIDE, 3), 9000, dtype=np.uint16)
    tifffile.imwrite(hospital.folder / "deep.tiff", deep, tile=(128, 128), photometric="rgb")
    write_slide(hospital.folder / "good.tiff", seed=3)
    rows = [("a", "grey.tiff", "0"), ("b", "deep.tiff", "1"), ("c", "good.tiff", "1")]
    write_index(hospital.folder / "slides.csv", [tuple(row) for row in rows])
    found = made(hospital, STUDY)
    assert sorted(found.problems) == [2, 3]
    assert "only RGB slides" in found.problems[2]
    assert "8-bit" in found.problems[3]
