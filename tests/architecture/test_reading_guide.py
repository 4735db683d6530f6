"""The security officer's guide through the node: every room stands in it, with about as many lines as it has."""

import re
from pathlib import Path

import solblom_client

ROOT = Path(__file__).parents[2]
NODE = Path(solblom_client.__file__).parent
GUIDE = (ROOT / "docs" / "how-to" / "read-the-node.md").read_text(encoding="utf-8")
WAY, ROOMS = GUIDE.split("## The rooms")


def lines(files: set[Path]) -> int:
    return sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)


def about(count: int, stated: str) -> bool:
    """Tell whether a stated number is right to a tenth, or to a hundred lines."""
    return abs(count - int(stated.replace(",", ""))) <= max(100, count // 10)


def rooms() -> dict[str, str]:
    found = re.findall(r"^\| (top level|`[a-z]+/`) \|[^|]*\| ([0-9,]+) \|", ROOMS, re.MULTILINE)
    return {name.strip("`"): stated for name, stated in found}


def test_every_room_of_the_node_stands_in_the_guide_and_no_other() -> None:
    there = {f"{file.parent.name}/" for file in NODE.glob("*/__init__.py")}
    assert set(rooms()) == there | {"top level"}


def test_the_guide_says_how_long_each_room_is() -> None:
    for name, stated in rooms().items():
        files = set(NODE.glob("*.py") if name == "top level" else (NODE / name).rglob("*.py"))
        assert about(lines(files), stated), f"{name}: {lines(files)} lines, the guide says {stated}"


def test_the_files_on_an_orders_way_exist_and_are_as_long_as_the_guide_says() -> None:
    way = {NODE / name for name in re.findall(r"`([a-z_/]+\.py)`", WAY)}
    assert len(way) > 20
    assert [file for file in way if not file.is_file()] == []
    stated = re.search(r"about ([0-9,]+) of ([0-9,]+) lines", WAY)
    assert stated
    assert about(lines(way), stated[1])
    assert about(lines(set(NODE.rglob("*.py"))), stated[2])
