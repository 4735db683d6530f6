"""code/lock.txt and code/sbom.cdx.json: what is installed, with licences, in the same bytes each time."""

import json
from dataclasses import replace
from importlib.metadata import version
from io import StringIO
from typing import Any

import pytest
from cyclonedx.model.bom import Bom
from packaging.requirements import Requirement

from solblom_models.artefact_files import lock
from solblom_models.artefact_files.lock import (
    Component,
    _record_digest,
    installed_components,
    lock_file,
)
from solblom_models.artefact_files.sbom import NO_LICENCE, bill_of_materials

COMPONENTS = (
    Component("alpha", "1.0", "MIT", "sha256:" + "a" * 64, None, ("beta",)),
    Component("beta", "2.0+cpu", "Apache-2.0 OR BSD-3-Clause", None, None, ()),
    Component("gamma", "3", None, None, None, ()),
    Component("solblom-models", "0.1.0", "Apache-2.0", None, "sha256:" + "c" * 64, ("alpha",)),
)


def bill(components: tuple[Component, ...] = COMPONENTS) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(
        bill_of_materials(components, name="heart-disease", version="v1")
    )
    return value


def test_the_lock_has_what_torch_needs_and_nothing_of_the_tests() -> None:
    names = {component.name for component in installed_components()}
    assert {"torch", "sympy", "numpy", "safetensors", "cryptography"} <= names  # sympy: of torch
    assert {"pytest", "mypy", "ruff", "hypothesis"} & names == set()


def test_the_lock_has_what_is_installed_of_extras() -> None:
    names = {component.name for component in installed_components()}
    assert {"onnx", "onnxruntime", "cyclonedx-python-lib"} <= names


def test_versions_are_those_that_are_installed() -> None:
    assert all(version(c.name) == c.version for c in installed_components())


def test_a_component_needs_only_what_the_lock_has() -> None:
    components = installed_components()
    names = {component.name for component in components}
    assert all(set(component.needs) <= names for component in components)
    assert names == {c.name for c in components if c.is_ours} | {
        needed for component in components for needed in component.needs
    }


def test_pip_can_read_the_lock() -> None:
    lines = lock_file(installed_components()).decode().splitlines()
    pinned = [Requirement(line.partition("  # ")[0]) for line in lines if line[0] != "#"]
    assert {r.name for r in pinned} >= {"torch", "numpy"}
    assert all(str(r.specifier).startswith("==") for r in pinned)


def test_the_lock_says_what_it_is_not() -> None:
    head = lock_file(COMPONENTS).decode().splitlines()
    assert any("no digest of a wheel" in line for line in head)
    assert any("hospitals' environments are not known" in line for line in head)


def test_solbloms_own_parts_are_named_by_their_code() -> None:
    lines = lock_file(COMPONENTS).decode().splitlines()
    assert f"# solblom-models==0.1.0  # code sha256:{'c' * 64}" in lines
    assert f"alpha==1.0  # record sha256:{'a' * 64}" in lines
    assert "gamma==3  # record none" in lines


RECORD = """\
alpha/__init__.py,sha256=abc,10
alpha/__pycache__/__init__.cpython-311.pyc,,
alpha-1.0.dist-info/RECORD,,
alpha-1.0.dist-info/INSTALLER,sha256=pip,4
alpha-1.0.dist-info/METADATA,sha256=def,99
../../../bin/alpha,sha256=shebang,200
"""


@pytest.mark.parametrize(
    "other",
    [
        RECORD.replace("sha256=pip", "sha256=uv"),
        RECORD.replace("sha256=shebang", "sha256=another-path"),
        "".join(reversed(RECORD.splitlines(keepends=True))),
        RECORD + "alpha-1.0.dist-info/direct_url.json,sha256=x,1\n",
        RECORD.replace("alpha/__pycache__/__init__.cpython-311.pyc,,\n", ""),
    ],
)
def test_two_installations_of_one_wheel_have_one_digest(other: str) -> None:
    assert _record_digest(other) == _record_digest(RECORD)


@pytest.mark.parametrize(
    "other",
    [
        RECORD.replace("sha256=abc", "sha256=abd"),
        RECORD.replace("sha256=def", "sha256=deg"),
        RECORD + "alpha/planted.py,sha256=x,1\n",
        RECORD.replace("alpha/__init__.py", "alpha/other.py"),
    ],
)
def test_another_file_is_another_digest(other: str) -> None:
    assert _record_digest(other) != _record_digest(RECORD)


def test_without_a_record_there_is_no_digest() -> None:
    assert _record_digest(None) is None


def test_a_bill_has_neither_a_time_nor_a_random_number() -> None:
    first = bill_of_materials(COMPONENTS, name="heart-disease", version="v1")
    bill_of_materials.cache_clear()
    assert bill_of_materials(COMPONENTS, name="heart-disease", version="v1") == first
    assert "timestamp" not in json.loads(first)["metadata"]


def test_another_lock_has_another_serial_number() -> None:
    newer = (*COMPONENTS[:2], replace(COMPONENTS[2], version="4"), COMPONENTS[3])
    assert bill()["serialNumber"] != bill(newer)["serialNumber"]


def test_every_component_stands_in_the_bill_with_its_licence() -> None:
    found = {c["name"]: c["licenses"] for c in bill()["components"]}
    assert found == {
        "alpha": [{"license": {"id": "MIT"}}],
        "beta": [{"expression": "Apache-2.0 OR BSD-3-Clause"}],
        "gamma": [{"license": {"name": NO_LICENCE}}],
        "solblom-models": [{"license": {"id": "Apache-2.0"}}],
    }


def test_the_installed_environment_has_a_licence_for_every_component() -> None:
    unknown = [c.name for c in installed_components() if c.licence is None]
    assert unknown == []


def test_the_model_depends_on_solblom_and_solblom_on_what_it_needs() -> None:
    needs = {entry["ref"]: entry.get("dependsOn", []) for entry in bill()["dependencies"]}
    assert needs["model:heart-disease@v1"] == ["solblom-models@0.1.0"]
    assert needs["solblom-models@0.1.0"] == ["alpha@1.0"]
    assert needs["alpha@1.0"] == ["beta@2.0+cpu"]


def test_the_library_reads_the_bill_that_it_wrote() -> None:
    data = bill_of_materials(installed_components(), name="heart-disease", version="v1")
    read = Bom.from_json(json.loads(data))  # type: ignore[attr-defined]  # added by a decorator
    assert {(c.name, c.version) for c in read.components} == {
        (c.name, c.version) for c in installed_components()
    }
    assert StringIO(data.decode()).read().startswith('{"$schema":"http://cyclonedx.org/schema/')


def test_licences_come_from_expression_then_field_then_classifiers() -> None:
    class Metadata(dict[str, list[str]]):
        def get_all(self, name: str) -> list[str] | None:
            return self.get(name)

    class Installed:
        def __init__(self, **fields: list[str]) -> None:
            self.metadata = Metadata({k.replace("_", "-"): v for k, v in fields.items()})

    bsd = ["License :: OSI Approved :: BSD License"]
    cases = [
        (Installed(License_Expression=["MIT"], License=["x"]), "MIT"),
        (Installed(License=["Apache 2.0"], Classifier=bsd), "Apache 2.0"),
        (Installed(License=["UNKNOWN"], Classifier=bsd), "BSD License"),
        (Installed(License=["Copyright\nall of it"], Classifier=bsd), "BSD License"),
        (Installed(), None),
    ]
    assert [lock._licence(installed) for installed, _ in cases] == [name for _, name in cases]  # type: ignore[arg-type]
