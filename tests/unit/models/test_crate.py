"""ro-crate-metadata.json: rocrate reads and writes it, and it has what Process Run Crate 0.5 asks for."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rocrate.rocrate import ROCrate

from artefact_lab import STUDIES, contents_of, write
from lab import NOW
from solblom_models.artefact_files.crate import CRATE, METADATA, PROFILE
from solblom_models.artefact_files.crate_profile import profile_errors
from solblom_verify.canonical import file_digest

Crate = dict[str, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "lab-v1"
    write(path, contents_of(STUDIES["logistic"]()))
    return path


@pytest.fixture
def crate(folder: Path) -> Crate:
    value: Crate = json.loads((folder / METADATA).read_bytes())
    return value


def entity(crate: Crate, name: str) -> Crate:
    (found,) = (e for e in crate["@graph"] if e["@id"] == name)
    return found  # type: ignore[no-any-return]


def by_id(crate: Crate) -> dict[str, Crate]:
    return {e["@id"]: e for e in crate["@graph"]}


def test_our_crate_has_what_the_profile_asks_for(crate: Crate) -> None:
    assert profile_errors(crate) == ()


def test_rocrate_reads_it_and_writes_the_same(folder: Path, crate: Crate, tmp_path: Path) -> None:
    ROCrate(folder).write(tmp_path / "again")
    written = json.loads((tmp_path / "again" / METADATA).read_bytes())
    assert by_id(written) == by_id(crate)
    assert len(written["@graph"]) == len(crate["@graph"])
    assert written["@context"] == crate["@context"]


def test_rocrate_copies_every_file_that_is_listed(
    folder: Path, crate: Crate, tmp_path: Path
) -> None:
    ROCrate(folder).write(tmp_path / "again")
    listed = [e["@id"] for e in crate["@graph"] if e["@type"] == "File"]
    assert len(listed) > 15
    for name in listed:
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_it_lists_every_file_with_its_digest(folder: Path, crate: Crate) -> None:
    listed = {e["@id"]: e for e in crate["@graph"] if e["@type"] == "File"}
    folders = [e["@id"] for e in crate["@graph"] if e["@type"] == "Dataset" and e["@id"] != "./"]
    assert folders == ["training/receipts/"]
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() or name.startswith(("attestations/", "training/receipts/")):
            continue
        if name != METADATA:
            named, size = file_digest(path)
            assert listed[name]["identifier"] == named
            assert listed[name]["contentSize"] == str(size)


def test_it_says_who_did_what_when(crate: Crate) -> None:
    (action,) = (e for e in crate["@graph"] if e["@type"] == "CreateAction")
    assert action["startTime"] == "2026-11-22T12:00:00+00:00"
    assert action["endTime"] == "2026-11-22T12:05:00+00:00"
    assert action["agent"] == {"@id": "#coordinator"}
    assert action["participant"] == [{"@id": "#site-north"}, {"@id": "#site-south"}]
    assert {"@id": "training/study.json"} in action["object"]
    assert {"@id": "model/weights.safetensors"} in action["result"]
    assert entity(crate, "./")["datePublished"] == NOW.isoformat()


def test_it_invents_no_licence(crate: Crate) -> None:
    assert "to be filled in by the provider" in entity(crate, "#licence")["description"]


def test_it_names_no_patient_and_no_count(folder: Path) -> None:
    text = (folder / METADATA).read_text(encoding="utf-8")
    assert "patient" not in text.lower()


def drop(name: str, key: str) -> Callable[[Crate], None]:
    def change(crate: Crate) -> None:
        del entity(crate, name)[key]

    return change


def put(name: str, key: str, value: Any) -> Callable[[Crate], None]:
    def change(crate: Crate) -> None:
        entity(crate, name)[key] = value

    return change


def remove(name: str) -> Callable[[Crate], None]:
    def change(crate: Crate) -> None:
        crate["@graph"] = [e for e in crate["@graph"] if e["@id"] != name]

    return change


RUN, WEIGHTS = "#run-lab-1", "model/weights.safetensors"
BREAKS: dict[str, tuple[Callable[[Crate], None], str]] = {
    "context": (lambda c: c.update({"@context": []}), "The context lacks"),
    "no graph": (lambda c: c.pop("@graph"), "no object with a @graph"),
    "no id": (drop("#solblom", "@id"), "no object with an @id"),
    "no type": (drop(WEIGHTS, "@type"), "has no @type"),
    "twice": (lambda c: c["@graph"].append(dict(entity(c, "#solblom"))), "Two entities"),
    "dangling": (put(RUN, "object", [{"@id": "gone"}]), "names gone, which is not in the graph"),
    "no descriptor": (remove(METADATA), f"There is no entity {METADATA}"),
    "descriptor's type": (put(METADATA, "@type", "File"), "descriptor is no CreativeWork"),
    "descriptor's about": (put(METADATA, "about", {"@id": RUN}), "not about ./"),
    "descriptor's version": (put(METADATA, "conformsTo", {"@id": PROFILE}), "does not conform"),
    "no root": (remove("./"), "There is no entity ./"),
    "root's type": (put("./", "@type", "File"), "The root is no Dataset"),
    "root's name": (drop("./", "name"), "The root has no name"),
    "root's description": (put("./", "description", " "), "The root has no description"),
    "root's date": (put("./", "datePublished", "yesterday"), "no datePublished"),
    "root's licence": (drop("./", "license"), "no license"),
    "root's profile": (drop("./", "conformsTo"), f"does not conform to {PROFILE}"),
    "other version": (put("./", "conformsTo", {"@id": f"{PROFILE[:-1]}4"}), "does not conform to"),
    "profile's type": (put(PROFILE, "@type", "Thing"), "The profile is no CreativeWork"),
    "profile's name": (drop(PROFILE, "name"), "The profile is no CreativeWork"),
    "not mentioned": (drop("./", "mentions"), f"does not mention {RUN}"),
    "no action": (put(RUN, "@type", "Thing"), "There is no action"),
    "action's name": (drop(RUN, "name"), "has no name"),
    "action's description": (drop(RUN, "description"), "has no description"),
    "action's end": (drop(RUN, "endTime"), "no endTime"),
    "action's start": (put(RUN, "startTime", "12:00"), "startTime that is not"),
    "no instrument": (drop(RUN, "instrument"), "has no instrument"),
    "instrument is no software": (put("#solblom", "@type", "Person"), "is no software"),
    "instrument's name": (drop("#solblom", "name"), "has no name"),
    "instrument's version": (drop("#solblom", "softwareVersion"), "has no version, or two"),
    "two versions": (put("#solblom", "version", "1"), "has no version, or two"),
    "no agent": (drop(RUN, "agent"), "no agent"),
    "agent is a file": (put(RUN, "agent", {"@id": WEIGHTS}), "no agent"),
    "no result": (drop(RUN, "result"), "has no result"),
    "result is a person": (put(RUN, "result", {"@id": "#coordinator"}), "which is no data"),
    "object is software": (put(RUN, "object", {"@id": "#solblom"}), "which is no data"),
    "error without failure": (put(RUN, "error", "broke"), "did not fail"),
    "unknown status": (put(RUN, "actionStatus", "done"), "unknown actionStatus"),
    "no author": (drop("./", "author"), "no author"),
    "publisher is a file": (put("./", "publisher", {"@id": WEIGHTS}), "no publisher"),
    "loose file": (
        lambda c: c["@graph"].append({"@id": "loose", "@type": "File"}),
        "loose is part of nothing",
    ),
    "part is an action": (put("./", "hasPart", [{"@id": RUN}]), "neither file nor folder"),
    "folder without slash": (
        lambda c: c["@graph"].append({"@id": "training", "@type": "Dataset"}),
        "does not end with a slash",
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_each_broken_requirement_is_named(crate: Crate, name: str) -> None:
    change, words = BREAKS[name]
    broken = copy.deepcopy(crate)
    change(broken)
    assert any(words in error for error in profile_errors(broken)), profile_errors(broken)


@pytest.mark.parametrize("value", [None, [], "x", {"@graph": {}}, {"@graph": [3]}])
def test_what_is_no_crate_is_no_crate(value: Any) -> None:
    assert len(profile_errors(value)) == 1


def test_a_failed_action_may_have_an_error(crate: Crate) -> None:
    action = entity(crate, RUN)
    action["error"] = "broke"
    action["actionStatus"] = "http://schema.org/FailedActionStatus"
    assert profile_errors(crate) == ()


def test_the_version_of_ro_crate_is_the_one_that_the_profile_extends() -> None:
    assert CRATE.endswith("/1.1")
