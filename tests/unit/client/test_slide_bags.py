"""From slides to bags: what is made, what is made again, what is left out and how it is said."""

import hashlib
import json
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from bag_lab import bag_study
from lab import LabHospital
from slide_hospital_lab import (
    made,
    slide_contract,
    slide_hospital,
    slide_study,
    write_all_white,
    write_index,
    write_slide,
)
from solblom_client.connectors.sources import open_source
from solblom_client.policy import load_node_config
from solblom_client.slides import bags
from solblom_client.slides.pool import DIED, Job, Setup, _Worker
from solblom_client.slides.stain_table import resolution_in_words, stain_table
from solblom_models.slide_mil.bags import BagIndex, read_bags
from solblom_models.slide_mil.task import SlideMil
from solblom_protocol.errors import ConfigurationError, DataError, IntegrityError
from solblom_protocol.messages.result import Result


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> LabHospital:
    return slide_hospital(tmp_path_factory.mktemp("slides") / "north", patients=3)


@pytest.fixture(scope="module")
def worker() -> Iterator[_Worker]:
    """What opens slides; it starts a process where it has none, so that a test may kill it."""
    made = _Worker(Setup(slide_contract().model_dump_json(), None, 8.0, "best-effort", 5.0))
    try:
        yield made
    finally:
        made.close()


def test_slides_become_bags_that_the_vault_trains_on(tmp_path: Path) -> None:
    hospital = slide_hospital(tmp_path / "north", patients=6)
    study = slide_study()
    with pytest.raises(DataError, match="no features yet"):
        hospital.approve(study)
    found = made(hospital, study, processes=2)
    assert (len(found.facts), found.problems, found.patients, found.known) == (6, {}, 6, 0)
    hospital.approve(study)
    assert isinstance(hospital.ask(hospital.order(study)), Result)


def test_what_was_made_once_is_not_made_again(hospital: LabHospital) -> None:
    study = slide_study()
    first = made(hospital, study)
    stamps = {path: path.stat().st_mtime_ns for path in first.bags.values()}
    again = made(hospital, study)
    assert again.known == 3
    assert again.facts == first.facts
    assert {path: path.stat().st_mtime_ns for path in again.bags.values()} == stamps


def test_the_same_slide_gives_the_same_bytes(tmp_path: Path, hospital: LabHospital) -> None:
    other = slide_hospital(tmp_path / "south", patients=3)
    one, two = made(hospital, slide_study()), made(other, slide_study())
    digests = [
        [hashlib.sha256(path.read_bytes()).hexdigest() for _, path in sorted(found.bags.items())]
        for found in (one, two)
    ]
    assert digests[0] == digests[1]
    assert [p.name for p in one.bags.values()] == [p.name for p in two.bags.values()]


def test_other_settings_are_other_bags_and_the_old_ones_are_refused(hospital: LabHospital) -> None:
    plain, fine = slide_contract(), slide_contract(encoder={"tile_px": 50})
    one = made(hospital, slide_study(contract=plain))
    source = open_source(hospital.config, hospital.config.dataset[0], plain)
    assert read_bags(source, plain).notes["slides"] == 3
    with pytest.raises(DataError, match="another encoder, or other settings"):
        read_bags(source, fine)
    two = made(hospital, slide_study(contract=fine))
    assert not set(one.bags.values()) & set(two.bags.values())
    assert one.index != two.index
    own = open_source(hospital.config, hospital.config.dataset[0], fine)
    assert read_bags(own, fine).notes["slides"] == 3


def test_bags_that_do_not_say_what_made_them_are_refused(
    tmp_path: Path, hospital: LabHospital
) -> None:
    found = made(hospital, slide_study())
    with h5py.File(found.bags[2], "r+") as file:
        recipe = file.attrs["solblom_recipe"]
        del file.attrs["solblom_recipe"]
    source = BagIndex(found.index)
    with pytest.raises(DataError, match="does not say what made its features"):
        read_bags(source, slide_contract())
    with h5py.File(found.bags[2], "r+") as file:
        file.attrs["solblom_recipe"] = recipe


def test_a_damaged_bag_is_made_again(hospital: LabHospital) -> None:
    found = made(hospital, slide_study())
    found.bags[3].write_bytes(b"half of it")
    again = made(hospital, slide_study())
    assert again.known == 2
    assert read_bags(BagIndex(again.index), slide_contract()).notes["slides"] == 3


def spoilt(file: h5py.File, what: str) -> None:
    """Change one thing of features that were made before."""
    if what == "a number that is none":
        file["features"][0, 0] = np.nan
    elif what == "the recipe":
        file.attrs["solblom_recipe"] = "0" * 64
    elif what == "no features":
        del file["features"]
    else:
        facts = json.loads(file.attrs["solblom_facts"])
        changed = {
            "facts of other kinds": {"tiles": "many"},
            "a name": {"carries": ["Olsen, 1944"]},
        }
        file.attrs["solblom_facts"] = json.dumps(facts | changed[what])


@pytest.mark.parametrize(
    "what",
    ["a number that is none", "the recipe", "no features", "facts of other kinds", "a name"],
)
def test_features_that_somebody_changed_are_made_again(hospital: LabHospital, what: str) -> None:
    """The vault would refuse them for ever, or their facts would be printed."""
    whole = made(hospital, slide_study()).bags[3]
    before = whole.read_bytes()
    with h5py.File(whole, "r+") as file:
        spoilt(file, what)
    again = made(hospital, slide_study())
    assert again.known == 2
    assert not again.problems
    assert whole.read_bytes() == before


@pytest.mark.parametrize(
    "answer",
    [{"problem": "\x1b[2J hidden"}, {"problem": "x" * 400}, {"facts": {"tiles": -1}}, {}],
)
def test_a_reader_that_a_file_took_over_is_not_repeated(
    hospital: LabHospital, monkeypatch: pytest.MonkeyPatch, answer: dict[str, object]
) -> None:
    monkeypatch.setattr(bags, "run_jobs", lambda jobs, *_, **__: [answer] * len(jobs))
    found = made(hospital, slide_study(contract=slide_contract(slides={"min_tissue": 0.4})))
    assert set(found.problems.values()) == {"what read it gave no facts"}


def test_slides_that_cannot_be_used_are_counted_by_line_and_left_out(tmp_path: Path) -> None:
    hospital = slide_hospital(tmp_path / "north", patients=1)
    folder = hospital.folder
    write_all_white(folder / "scans/white.tiff")
    (folder / "scans/text.svs").write_text("no slide", encoding="utf-8")
    whole = write_slide(folder / "scans/cut.tiff", seed=9).read_bytes()
    (folder / "scans/cut.tiff").write_bytes(whole[: len(whole) // 2])
    write_slide(folder / "scans/coarse.tiff", seed=9, microns_per_pixel=2.0)
    write_slide(folder / "scans/absurd.tiff", seed=9, microns_per_pixel=50.0)
    rows = [
        ("patient-0", "scans/0.tiff", "0"),
        ("patient-0", "scans/white.tiff", "0"),
        ("patient-1", "scans/text.svs", "1"),
        ("patient-2", "scans/cut.tiff", "1"),
        ("patient-3", "scans/coarse.tiff", "1"),
        ("patient-4", "scans/absurd.tiff", "1"),
        ("patient-5", "scans/nothing.tiff", "1"),
        ("patient-6", "", "1"),
    ]
    write_index(folder / "slides.csv", rows)
    found = made(hospital, slide_study())
    assert list(found.facts) == [2]
    assert sorted(found.problems) == [3, 4, 5, 6, 7, 8, 9]
    assert (found.patients, found.without) == (1, 6)
    for text in found.problems.values():  # a reason names nothing of the file
        assert "scans" not in text
        assert "patient" not in text
    units = read_bags(BagIndex(found.index), slide_contract())
    assert units.ids == ("patient-0",)


def test_a_slide_that_ends_its_reader_is_left_out_and_the_next_is_read(
    tmp_path: Path, worker: _Worker
) -> None:
    slide = write_slide(tmp_path / "a.tiff", seed=1)
    assert "facts" in worker.ask(Job(slide, tmp_path / "a.h5"))
    process = worker._process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)
    # It dies while it has the slide, as of a decoder that runs over its buffer.
    threading.Timer(0.3, process.kill).start()
    assert worker.ask(Job(slide, tmp_path / "b.h5")) == {"problem": DIED}
    assert "facts" in worker.ask(Job(slide, tmp_path / "c.h5"))


def test_a_slide_that_takes_too_long_is_given_up(
    tmp_path: Path, worker: _Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide = write_slide(tmp_path / "a.tiff", seed=1)
    assert "facts" in worker.ask(Job(slide, tmp_path / "a.h5"))
    process = worker._process
    assert process is not None
    monkeypatch.setattr(worker, "_setup", replace(worker._setup, slide_minutes=0.005))
    os.kill(process.pid, signal.SIGSTOP)  # it hangs
    answer = worker.ask(Job(slide, tmp_path / "b.h5"))
    assert "took longer" in str(answer["problem"])
    assert worker._process is None
    assert threading.active_count() < 20


def test_the_worker_has_no_network_and_a_bound_on_its_memory(
    tmp_path: Path, worker: _Worker
) -> None:
    worker.ask(Job(tmp_path / "none", tmp_path / "a.h5"))
    process = worker._process
    assert process is not None
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
    limits = Path(f"/proc/{process.pid}/limits").read_text(encoding="utf-8")
    assert "Seccomp:\t2" in status
    (data,) = [line.split() for line in limits.splitlines() if line.startswith("Max data size")]
    assert data[3] == str(8 * 1024**3)


def test_an_encoder_file_runs_only_where_the_hospital_lists_its_digest(tmp_path: Path) -> None:
    weights = tmp_path / "weights.onnx"
    weights.write_bytes(b"not an encoder")
    digest = hashlib.sha256(b"not an encoder").hexdigest()
    contract = slide_contract(encoder={"kind": "onnx", "sha256": digest, "dim": 3})
    study = slide_study(contract=contract)
    stranger = slide_hospital(tmp_path / "north", patients=1)
    with pytest.raises(ConfigurationError, match="not on this hospital's list"):
        made(stranger, study)
    listed = f'[[encoder]]\nfile = "{weights}"\nsha256 = "{digest}"\n'
    hospital = slide_hospital(tmp_path / "south", patients=1, more=listed)
    with pytest.raises(ConfigurationError, match="cannot be loaded as ONNX"):
        made(hospital, study)
    weights.write_bytes(b"another")
    with pytest.raises(IntegrityError, match="the contract pins"):
        made(hospital, study)


def test_features_from_elsewhere_are_not_made_here(hospital: LabHospital) -> None:
    with pytest.raises(ConfigurationError, match="made outside Solblom"):
        made(hospital, bag_study())


def test_a_data_set_of_slides_names_where_its_features_go(tmp_path: Path) -> None:
    hospital = slide_hospital(tmp_path / "north", patients=1)
    file = hospital.folder / "node.toml"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace('features = "features"\n', ""), encoding="utf-8")
    with pytest.raises(ConfigurationError, match="features belongs to"):
        load_node_config(file)


def test_the_stain_table_tells_scanners_apart(hospital: LabHospital) -> None:
    columns = ("patient_id", "file", "label", "scanner")
    rows = [(f"patient-{n}", f"scans/{n}.tiff", str(n % 2), f"scanner {n // 2}") for n in range(3)]
    index = hospital.folder / "slides.csv"
    before = index.read_text(encoding="utf-8")
    write_index(index, [tuple(row) for row in rows], columns=columns)
    found = made(hospital, slide_study())
    table = stain_table(found)
    assert [(row.scanner, row.slides) for row in table] == [("scanner 0", 2), ("scanner 1", 1)]
    assert all(row.eosin > row.haematoxylin for row in table)  # the lab's tissue is pink
    assert [resolution_in_words(row) for row in table] == ["1", "1"]
    assert resolution_in_words(replace(table[0], finest=0.2514, coarsest=0.5)) == "0.251 to 0.5"
    index.write_text(before, encoding="utf-8")


def test_one_patient_with_200_slides_is_one_patient(tmp_path: Path) -> None:
    hospital = slide_hospital(tmp_path / "north", patients=2)
    folder = hospital.folder
    rows = [("patient-1", "scans/1.tiff", "1")]
    for number in range(200):  # links to one file are the same slide again and again
        os.link(folder / "scans/0.tiff", folder / f"scans/many-{number}.tiff")
        rows.append(("patient-0", f"scans/many-{number}.tiff", "0"))
    write_index(folder / "slides.csv", [tuple(row) for row in rows])
    found = made(hospital, slide_study())
    assert (len(found.facts), found.patients) == (201, 2)
    assert len(set(found.bags.values())) == 2  # read once, and named once in the index
    units = read_bags(BagIndex(found.index), slide_contract())
    assert [len(slides) for slides in units.slides] == [1, 1]


def test_another_study_on_the_same_slides_leaves_the_first_as_it_was(tmp_path: Path) -> None:
    hospital = slide_hospital(tmp_path / "north", patients=6)
    first, second = slide_study(), slide_study(contract=slide_contract(encoder={"tile_px": 50}))
    made(hospital, first)
    hospital.approve(first)
    made(hospital, second)
    assert isinstance(hospital.ask(hospital.order(first)), Result)
    hospital.approve(second)


def test_what_the_vault_would_refuse_is_refused_before_a_slide_is_read(tmp_path: Path) -> None:
    hospital = slide_hospital(tmp_path / "north", patients=2)
    rows = [("a", "scans/0.tiff", "0"), ("b", "scans/1.tiff", "2")]
    write_index(hospital.folder / "slides.csv", [tuple(row) for row in rows])
    with pytest.raises(DataError, match="no known code"):
        made(hospital, slide_study())
    rows = [("a", "scans/0.tiff", "0"), ("a", "scans/1.tiff", "1")]
    write_index(hospital.folder / "slides.csv", [tuple(row) for row in rows])
    with pytest.raises(DataError, match="disagree"):
        made(hospital, slide_study())
    assert not list((hospital.folder / "features" / "bags").glob("*"))


def test_names_that_no_file_can_have_are_counted(tmp_path: Path) -> None:
    hospital = slide_hospital(tmp_path / "north", patients=1)
    rows = [("a", "scans/0.tiff", "0"), ("b", "x" * 300, "1"), ("c", "scans", "1")]
    write_index(hospital.folder / "slides.csv", [tuple(row) for row in rows])
    found = made(hospital, slide_study())
    assert found.problems == {3: "it cannot be looked up", 4: "there is no such file"}


def test_a_code_for_unannotated_tissue_is_one_of_the_target() -> None:
    with pytest.raises(ConfigurationError, match="no code of the target"):
        slide_contract(slides={"unannotated": "healthy"})


def test_a_worker_that_died_between_two_slides_is_no_fault_of_the_next(
    tmp_path: Path, worker: _Worker
) -> None:
    slide = write_slide(tmp_path / "a.tiff", seed=1)
    assert "facts" in worker.ask(Job(slide, tmp_path / "a.h5"))
    process = worker._process
    assert process is not None
    process.kill()
    process.wait()
    assert "facts" in worker.ask(Job(slide, tmp_path / "b.h5"))


def test_tiles_take_their_code_from_what_a_pathologist_drew(tmp_path: Path) -> None:
    contract = slide_contract(target={"column": "codes"}, slides={"unannotated": "0"})
    study = slide_study(
        contract=contract, task={"name": "tile-classification", "model": {"kind": "linear"}}
    )
    hospital = slide_hospital(tmp_path / "north", patients=1, task="tile-classification")
    square = [[0, 0], [190, 0], [190, 400], [0, 400], [0, 0]]
    drawn = {
        "type": "FeatureCollection",
        "features": [
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [square]},
                "properties": {"classification": {"name": "1"}},
            }
        ],
    }
    (hospital.folder / "a.geojson").write_text(json.dumps(drawn), encoding="utf-8")
    columns = ("patient_id", "file", "annotations")
    rows = [("p", "scans/0.tiff", "a.geojson"), ("q", "scans/0.tiff", "")]
    write_index(hospital.folder / "slides.csv", [tuple(r) for r in rows], columns=columns)
    found = made(hospital, study)
    assert found.problems == {3: "its annotations are missing"}
    with h5py.File(found.bags[2]) as file:
        codes = [text.decode() for text in file["codes"][()]]
        coords = file["coords"][()]
    assert codes == ["1" if x + 32 < 190 else "0" for x in coords[:, 0]]
    assert {"0", "1"} == set(codes)


def test_slide_mil_reads_no_pixels() -> None:
    contract = slide_contract(encoder={"kind": "pixels", "dim": 3 * 64 * 64, "sha256": None})
    with pytest.raises(ConfigurationError, match="not pixels"):
        SlideMil().check(
            slide_study(contract=slide_contract()).model_copy(update={"contract": contract})
        )
