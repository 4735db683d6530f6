"""The digest of installed code: whatever Python may load from a package is part of it."""

import importlib
import importlib.util
import py_compile
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from solblom_protocol.code_digest import _code_digest, code_digest
from solblom_protocol.errors import ConfigurationError

PACKAGE = "solblom_digest_lab"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on Python's path that is this test's own."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    yield folder
    for name in [n for n in sys.modules if n.partition(".")[0] == PACKAGE]:
        del sys.modules[name]


def write(path: Path, text: str = "x = 1\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def digest() -> str:
    """Return the package's digest, as after a restart."""
    _code_digest.cache_clear()
    importlib.invalidate_caches()
    return code_digest([PACKAGE])


def refused() -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        digest()
    assert caught.value.code == "SB-114"
    return caught.value


@pytest.mark.parametrize("start", ["__init__.py", "task.py"], ids=["regular", "namespace"])
@pytest.mark.parametrize(
    "name",
    [
        "task.py",
        "deep/er/net.py",
        "fast.cpython-311-x86_64-linux-gnu.so",
        "fast.pyd",
        "sourceless.pyc",
        "weights.bin",
        "__pycache__/hidden.py",
        "__pycache__/hidden.pyc",
    ],
)
def test_a_file_that_is_new_or_changed_gives_another_digest(
    installed: Path, start: str, name: str
) -> None:
    package = installed / PACKAGE
    write(package / start)
    before = digest()
    write(package / name, "y = 2\n")
    first = digest()
    write(package / name, "y = 3\n")
    assert len({before, first, digest()}) == 3


def test_all_folders_of_a_namespace_package_count(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(installed / PACKAGE / "task.py")
    elsewhere = tmp_path / "elsewhere"
    other = write(elsewhere / PACKAGE / "net.py")
    monkeypatch.syspath_prepend(elsewhere)
    before = digest()
    write(other, "x = 2\n")
    assert digest() != before


def test_a_folder_that_a_package_adds_to_its_own_path_counts(
    installed: Path, tmp_path: Path
) -> None:
    other = write(tmp_path / "added" / "net.py")
    write(installed / PACKAGE / "__init__.py", f"__path__ = [*__path__, {str(other.parent)!r}]\n")
    importlib.import_module(PACKAGE)
    before = digest()
    write(other, "x = 2\n")
    assert digest() != before


def test_a_single_module_is_its_file_and_not_its_neighbours(installed: Path) -> None:
    module = write(installed / f"{PACKAGE}.py")
    before = digest()
    write(installed / "neighbour.py")
    assert digest() == before
    write(module, "x = 2\n")
    assert digest() != before


def test_a_cache_that_python_compares_with_its_source_changes_nothing(installed: Path) -> None:
    source = write(installed / PACKAGE / "__init__.py")
    before = digest()
    py_compile.compile(str(source))
    assert list((installed / PACKAGE / "__pycache__").iterdir())
    assert digest() == before


def test_a_cache_that_python_runs_unseen_counts(installed: Path) -> None:
    source = write(installed / PACKAGE / "__init__.py")
    before = digest()
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(str(source), invalidation_mode=unchecked)
    assert digest() != before


def test_a_package_in_an_archive_is_refused(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "packed.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr(f"{PACKAGE}/__init__.py", "")
    monkeypatch.syspath_prepend(archive)
    assert PACKAGE in refused().message


def test_a_folder_behind_a_link_is_refused(installed: Path, tmp_path: Path) -> None:
    write(installed / PACKAGE / "__init__.py")
    write(tmp_path / "elsewhere" / "net.py")
    (installed / PACKAGE / "linked").symlink_to(tmp_path / "elsewhere")
    assert "linked is a symbolic link" in refused().message


def test_code_that_was_typed_in_is_refused(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = importlib.util.spec_from_loader(PACKAGE, loader=None)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    module.__spec__ = None
    monkeypatch.setitem(sys.modules, PACKAGE, module)
    assert "not imported from a file" in refused().message


def test_a_package_that_is_not_installed_has_a_digest_of_its_own(installed: Path) -> None:
    before = digest()
    write(installed / PACKAGE / "__init__.py", "")
    assert digest() != before
