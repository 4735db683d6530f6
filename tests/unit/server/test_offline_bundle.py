"""The offline bundle: whatever is changed, added or taken away is found, with our command and with a plain Python."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cyclonedx.model.bom import Bom
from typer.testing import CliRunner

from bundle_lab import NOW, OTHERS, SOURCE, LabBundle, write_wheel
from solblom_client.cli import app as client
from solblom_protocol.errors import ConfigurationError
from solblom_protocol.keys.key_files import private_pem, public_pem
from solblom_protocol.offline.bundle import (
    Machine,
    WheelName,
    misfits,
    needed_machine,
    requirements_file,
    spoken,
    this_machine,
)
from solblom_server.commands.coordinator import app as operator
from solblom_server.offline import building
from solblom_server.offline.building import Source, build, check_pins, wheels_in

ROOT = Path(__file__).parents[3]
SHA = "a" * 64


@pytest.fixture
def bundle(tmp_path: Path) -> LabBundle:
    return LabBundle.make(tmp_path / "bundle")


def run_script(bundle: LabBundle, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run the bundle's own script, in a Python without site-packages: what a plain machine has."""
    return subprocess.run(
        [sys.executable, "-I", "-S", str(bundle.folder / "check_bundle.py"), *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=bundle.folder,
    )


def change_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


# --- What holds


def test_a_bundle_as_it_was_made_holds(bundle: LabBundle) -> None:
    verdict = bundle.check()
    assert verdict.fits
    assert verdict.manifest == bundle.manifest
    assert len(verdict.checks) == 7


def test_the_script_says_the_number_that_the_operator_reads(bundle: LabBundle) -> None:
    done = run_script(bundle)
    assert done.returncode == 0, done.stdout
    number = bundle.check().number
    assert number is not None
    assert number in done.stdout
    assert number == spoken((bundle.folder / "SHA256SUMS").read_bytes())


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="sha256sum is not installed")
def test_sha256sum_checks_every_file_but_the_sums(bundle: LabBundle) -> None:
    words = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=bundle.folder)
    assert done.returncode == 0
    checked = {line.removesuffix(": OK") for line in done.stdout.splitlines()}
    assert checked == set(bundle.paths()) - {"SHA256SUMS"}


def test_the_verdict_says_what_was_not_checked(bundle: LabBundle) -> None:
    said = " ".join(bundle.check().not_checked)
    assert all(word in said for word in ("code does", "Weaknesses", "Licences", "installed here"))


# --- What was changed


def test_a_changed_byte_of_any_file_is_found_by_both(bundle: LabBundle) -> None:
    number = bundle.check().number
    for path in bundle.paths():
        whole = (bundle.folder / path).read_bytes()
        change_a_byte(bundle.folder / path)
        assert bundle.failed(), path
        if path not in ("check_bundle.py", "SHA256SUMS"):  # sums first, by phone; then the script
            assert run_script(bundle).returncode == 1, path
        (bundle.folder / path).write_bytes(whole)
    assert bundle.check().number == number


def test_a_missing_file_is_found_by_both(bundle: LabBundle) -> None:
    for path in bundle.paths():
        whole = (bundle.folder / path).read_bytes()
        (bundle.folder / path).unlink()
        assert bundle.failed(), path
        if path != "check_bundle.py":
            assert run_script(bundle).returncode == 1, path
        (bundle.folder / path).write_bytes(whole)


def _file(bundle: LabBundle) -> None:
    (bundle.folder / "setup.py").write_text("print()\n")


def _wheel(bundle: LabBundle) -> None:
    write_wheel(bundle.folder / "wheels", "sitecustomize", "1.0")


def _folder(bundle: LabBundle) -> None:
    (bundle.folder / "wheels" / "more").mkdir()


def _empty_folder(bundle: LabBundle) -> None:
    (bundle.folder / "json").mkdir()


def _link(bundle: LabBundle) -> None:
    (bundle.folder / "wheels" / "more.whl").symlink_to("/etc/hostname")


def _link_in_place(bundle: LabBundle) -> None:
    path = next((bundle.folder / "wheels").iterdir())
    aside = bundle.folder.parent / "aside.whl"
    path.rename(aside)
    path.symlink_to(aside)


def _linked_wheels(bundle: LabBundle) -> None:
    aside = bundle.folder.parent / "aside"
    (bundle.folder / "wheels").rename(aside)
    (bundle.folder / "wheels").symlink_to(aside)


@pytest.mark.parametrize(
    "add", [_file, _wheel, _folder, _empty_folder, _link, _link_in_place, _linked_wheels]
)
def test_what_nobody_signed_is_found_by_both(
    bundle: LabBundle, add: Callable[[LabBundle], None]
) -> None:
    add(bundle)
    assert set(bundle.failed()) & {"nothing else", "files"}
    assert run_script(bundle).returncode == 1


def test_a_bundle_made_by_somebody_else_is_refused_and_has_another_number(
    bundle: LabBundle,
) -> None:
    number = bundle.check().number
    assert number is not None
    (bundle.folder / "wheels" / "torch-2.13.0+cpu-py3-none-any.whl").write_bytes(b"hostile")
    bundle.sign_again(key=Ed25519PrivateKey.generate())
    assert bundle.failed() == ["signature"]
    said = run_script(bundle)  # it holds in itself: the number is what tells
    assert said.returncode == 0
    assert number not in said.stdout


def test_a_requirement_beside_the_wheels_is_found_though_it_is_signed(bundle: LabBundle) -> None:
    path = bundle.folder / "requirements.txt"
    path.write_bytes(path.read_bytes() + b"--extra-index-url https://packages.example/\n")
    bundle.sign_again()
    assert bundle.failed() == ["requirements"]


@pytest.mark.parametrize("change", ["lacks", "other digest", "no such wheel", "no digest"])
def test_a_bill_that_is_not_of_the_wheels_is_found_though_it_is_signed(
    bundle: LabBundle, change: str
) -> None:
    path = bundle.folder / "sbom.cdx.json"
    bill = json.loads(path.read_bytes())
    first = bill["components"][0]
    if change == "lacks":
        bill["components"].remove(first)
    elif change == "other digest":
        first["hashes"][0]["content"] = SHA
    elif change == "no such wheel":
        bill["components"].append(first | {"name": "more", "bom-ref": "more"})
    else:
        first["hashes"] = []
    path.write_text(json.dumps(bill, sort_keys=True, separators=(",", ":")))
    bundle.sign_again()
    assert bundle.failed() == ["bill of materials"]


def test_the_script_takes_nothing_from_the_folder_that_it_checks(bundle: LabBundle) -> None:
    (bundle.folder / "json.py").write_text("print('taken')\n")
    script = [sys.executable, str(bundle.folder / "check_bundle.py")]
    refused = subprocess.run(script, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "taken" not in refused.stdout
    done = run_script(bundle)
    assert "taken" not in done.stdout
    assert "'json.py': does not belong here" in done.stdout


# --- The machine


def machine(**changes: str | None) -> Machine:
    values = {"python": "3.11", "system": "Linux", "processor": "x86_64", "glibc": "2.36"}
    return Machine.model_validate(values | changes)


@pytest.mark.parametrize(
    ("tags", "asked"),
    [
        ("any", None),
        ("manylinux_2_34_x86_64", (2, 34)),
        ("manylinux2014_x86_64.manylinux_2_17_x86_64.manylinux_2_28_x86_64", (2, 17)),
        ("manylinux1_x86_64", (2, 5)),
        ("linux_x86_64", None),
    ],
)
def test_a_wheel_asks_for_the_oldest_glibc_of_its_tags(
    tags: str, asked: tuple[int, int] | None
) -> None:
    assert WheelName.of(f"a-1-py3-none-{tags}.whl", SHA).glibc == asked


def test_the_wheels_ask_for_the_newest_glibc_that_one_of_them_asks_for() -> None:
    wheels = [WheelName.of(f"a-1-py3-none-manylinux_2_{n}_x86_64.whl", SHA) for n in (9, 28, 17)]
    assert needed_machine(wheels, machine()).glibc == "2.28"
    own = WheelName.of("a-1-cp311-cp311-linux_x86_64.whl", SHA)  # built here
    assert needed_machine([*wheels, own], machine()).glibc == "2.36"


@pytest.mark.parametrize(
    "here",
    [{"python": "3.12"}, {"processor": "aarch64"}, {"glibc": "2.9"}, {"glibc": None}],
)
def test_a_machine_that_does_not_fit_is_named(here: dict[str, str | None]) -> None:
    assert len(misfits(machine(glibc="2.28"), machine(**here))) == 1
    assert misfits(machine(glibc="2.28"), machine(glibc="2.28")) == ()


def test_another_machine_says_no_but_the_bundle_holds(bundle: LabBundle) -> None:
    here = this_machine().model_copy(update={"python": "3.12"})
    from solblom_protocol.offline.check import check_bundle

    verdict = check_bundle(bundle.folder, bundle.key.public_key(), here=here)
    assert (verdict.holds, verdict.fits) == (True, False)


# --- Making one


def test_requirements_name_each_wheel_by_digest_and_no_index(bundle: LabBundle) -> None:
    lines = (bundle.folder / "requirements.txt").read_text().splitlines()
    pinned = [line for line in lines if not line.startswith(("#", "--"))]
    assert len(pinned) == 6
    assert all(" --hash=sha256:" in line for line in pinned)
    assert "--no-index" in lines
    assert requirements_file(wheels_in(bundle.folder)).decode().splitlines() == lines


def test_the_bill_is_valid_and_has_licences_needs_and_digests(bundle: LabBundle) -> None:
    value = json.loads((bundle.folder / "sbom.cdx.json").read_bytes())
    bom = Bom.from_json(value)
    assert {component.name for component in bom.components} == {
        "solblom-verify",
        "solblom-protocol",
        "solblom-models",
        "solblom-client",
        *OTHERS,
    }
    needs = {entry["ref"]: entry.get("dependsOn", []) for entry in value["dependencies"]}
    assert needs["solblom-models@0.1.0"] == ["fancy-name@1.0", "torch@2.13.0+cpu"]
    assert all(component.licenses and component.hashes for component in bom.components)


@pytest.mark.parametrize(
    ("name", "version"), [("torch", "2.14.0"), ("unknown", "1.0"), ("solblom-client", "0.2.0")]
)
def test_a_package_that_constraints_do_not_name_is_refused(
    tmp_path: Path, name: str, version: str
) -> None:
    (tmp_path / "wheels").mkdir()
    write_wheel(tmp_path / "wheels", name, version)
    with pytest.raises(ConfigurationError, match=f"SB-120|{name} {version}"):
        check_pins(wheels_in(tmp_path), SOURCE)


def test_a_source_package_among_the_wheels_is_refused(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "torch-2.13.0.tar.gz").write_bytes(b"")
    with pytest.raises(ConfigurationError, match="not called as a wheel"):
        wheels_in(tmp_path)


def test_this_repository_is_a_source_and_pins_all_that_a_node_needs() -> None:
    source = Source.read(ROOT)
    assert source.pinned["torch"] == "2.13.0"
    assert "parquet" in source.extras
    with pytest.raises(ConfigurationError, match="no copy of Solblom"):
        Source.read(ROOT / "docs")


def test_nothing_stays_where_pip_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "NO_INDEX": "1",
        "FIND_LINKS": str(tmp_path),
        "CONFIG_FILE": os.devnull,
    }.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    into = tmp_path / "out" / "bundle"
    with pytest.raises(ConfigurationError, match="pip says") as caught:
        build(Source.read(ROOT), into, Ed25519PrivateKey.generate(), now=NOW)
    assert caught.value.code == "SB-120"
    assert list((tmp_path / "out").iterdir()) == []


def test_the_notes_have_no_open_place_and_name_key_and_machine(bundle: LabBundle) -> None:
    for language in ("en", "no"):
        text = (bundle.folder / f"INSTALL.{language}.txt").read_text()
        assert text.count("@") == 0
        assert "python3.11 -I check_bundle.py" in text
        assert all(len(line) <= 80 for line in text.splitlines())


# --- The commands


def test_the_command_says_verified_and_exit_5_where_it_does_not_hold(
    bundle: LabBundle, tmp_path: Path
) -> None:
    key = tmp_path / "operator.pem"
    key.write_text(public_pem(bundle.key.public_key()))
    words = ["bundle", "verify", str(bundle.folder), "--key", str(key)]
    good = CliRunner().invoke(client, [*words, "--json"])
    assert good.exit_code == 0
    assert json.loads(good.stdout)["ok"] is True
    change_a_byte(bundle.folder / "requirements.txt")
    bad = CliRunner().invoke(client, words)
    assert bad.exit_code == 5
    assert "Do not install from this folder" in bad.stdout


def test_a_private_key_is_no_key_to_verify_with(bundle: LabBundle, tmp_path: Path) -> None:
    key = tmp_path / "operator.pem"
    key.write_bytes(private_pem(bundle.key))
    words = ["bundle", "verify", str(bundle.folder), "--key", str(key)]
    assert CliRunner().invoke(client, words).exit_code == 3


def test_the_operator_makes_a_bundle_with_the_coordinators_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_small_wheels(source: Source, wheels: Path, extras: object) -> None:
        for name, version in OTHERS.items():
            write_wheel(wheels, name, version)
        for part in building.PARTS:
            write_wheel(wheels, f"solblom-{part}", source.version)

    monkeypatch.setattr(building, "run_pip", with_small_wheels)  # pip itself: tests/network
    monkeypatch.setattr(building, "check_pins", lambda wheels, source: None)
    home, into = tmp_path / "home", tmp_path / "bundle"
    runner = CliRunner()
    assert runner.invoke(operator, ["init", str(home), "--name", "fed"]).exit_code == 0
    words = ["bundle", "--out", str(into), "--source", str(ROOT), "--home", str(home), "--json"]
    made = runner.invoke(operator, words)
    assert made.exit_code == 0, made.output
    said = json.loads(made.stdout)
    assert said["number"] == spoken((into / "SHA256SUMS").read_bytes())
    verify = ["bundle", "verify", str(into), "--key", str(home / "coordinator.pub")]
    assert runner.invoke(client, verify).exit_code == 0
    assert runner.invoke(operator, words).exit_code == 3  # nothing is overwritten
