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


SPEAKS = {
    "link/errors.py",  # names what went wrong
    "link/fleet.py",
    "link/vault_client.py",  # to the vault's own socket
    "log/syslog.py",  # `node log forward`
    "node_notes.py",  # asks whether the vault's own socket is alive
    "service/isolation.py",  # measures what it can no longer reach
    "service/seccomp.py",  # names what is forbidden
    "service/vault_service.py",
    "service/vault_socket.py",
    "support/machine.py",  # names the version of OpenSSL
}
OPENS = re.compile(
    r"^\s*(?:import|from) (?:socket|ssl|http|httpx|urllib\.request|requests|grpc|asyncio|ftplib|smtplib)\b",
    re.MULTILINE,
)


def test_no_other_file_of_the_node_imports_what_opens_a_connection() -> None:
    found = {
        str(file.relative_to(NODE))
        for file in NODE.rglob("*.py")
        if OPENS.search(file.read_text(encoding="utf-8"))
    }
    assert found == SPEAKS


def test_neither_tasks_nor_what_both_sides_agree_on_open_a_connection() -> None:
    for part in ("models", "protocol", "verify"):
        for file in (ROOT / part).rglob("*.py"):
            assert not OPENS.search(file.read_text(encoding="utf-8")), file
