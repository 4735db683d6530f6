"""Checks a bundle on a machine that has Python 3.11 and nothing else: every file by its digest, and nothing more.

    python3.11 -I check_bundle.py

This file stands alone: it needs Python's standard library only, opens no network and runs nothing of the bundle.
It checks no signature; `solblom node bundle verify` does, once Solblom is installed. It cannot vouch for itself:
compare the number of SHA256SUMS by phone first, as INSTALL.en.txt says, and run `sha256sum --check` before this.
"""

import sys

SUMS, MANIFEST, ENVELOPE, WHEELS = "SHA256SUMS", "manifest.json", "manifest.dsse.json", "wheels"

# Without -I, Python would first look for its own modules in the folder that is to be checked.
if __name__ == "__main__" and not sys.flags.isolated:
    print(f"Run it with -I: python3.11 -I {sys.argv[0]}", file=sys.stderr)
    sys.exit(2)

import hashlib  # noqa: E402
import json  # noqa: E402
import platform  # noqa: E402
from pathlib import Path  # noqa: E402


def main(argv: list[str]) -> int:
    """Check the folder in which this file lies, or the one that is named; 0: it holds, 1: no, 2: usage."""
    if len(argv) > 2:
        print(f"usage: python3.11 -I {argv[0]} [FOLDER]", file=sys.stderr)
        return 2
    folder = Path(argv[1]) if len(argv) == 2 else Path(argv[0]).absolute().parent
    try:
        wrong, count = troubles(folder)
        number = "" if wrong else digest_of(folder / SUMS)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        wrong = [f"it cannot be read: {type(error).__name__} {str(error)!a}"]
    if wrong:
        for line in wrong:
            print(f"NO   {line}")
        print("Do not install from this folder: get another copy.")
        return 1
    print(f"ok   {count} files, each by its digest, and nothing else; this machine fits")
    print("Compare with the operator, on a number that you know (SHA-256 of SHA256SUMS):")
    print("     " + " ".join(number[start : start + 4] for start in range(0, 64, 4)))
    print("Not checked: the signature (solblom node bundle verify, after the installation),")
    print("and what the packages do.")
    return 0


def troubles(folder: Path) -> tuple[list[str], int]:
    """Return what is wrong with a folder, and how many files were looked at; no link is opened, and no pipe."""
    there = everything(folder)
    strange = [f"{path!a}: a link or no plain file" for path in sorted(there) if not there[path]]
    if strange:
        return strange, 0
    sums: dict[str, str] = {}
    for line in (folder / SUMS).read_text(encoding="ascii").splitlines():
        digest, path = line.split("  ", 1)
        sums[path] = digest
    if digest_of(folder / MANIFEST) != sums[MANIFEST]:  # before a parser sees it
        return [f"{MANIFEST!a}: other bytes"], 0
    manifest = json.loads((folder / MANIFEST).read_bytes())
    listed = {file["path"]: file["sha256"] for file in manifest["files"]}
    wrong = [f"{path!a}: not in {SUMS}" for path in sorted(listed.keys() - sums.keys())]
    wrong += [
        f"{path!a}: {SUMS} and {MANIFEST} differ"
        for path in sorted(sums)
        if path not in (MANIFEST, ENVELOPE) and listed.get(path) != sums[path]
    ]
    wrong += [f"{path!a}: missing" for path in sorted(sums.keys() - there.keys())]
    for path in sorted(there):
        if path not in sums and path != SUMS:
            wrong.append(f"{path!a}: does not belong here")
        elif path != SUMS and digest_of(folder / path) != sums[path]:
            wrong.append(f"{path!a}: other bytes")
    return wrong + misfits(manifest["machine"]), len(sums)


def everything(folder: Path) -> dict[str, bool]:
    """Return path and whether it is a plain file, of all in the folder and in its folder of wheels."""
    found = {}
    for entry in folder.iterdir():
        if entry.name == WHEELS and entry.is_dir() and not entry.is_symlink():
            for inner in entry.iterdir():
                found[f"{WHEELS}/{inner.name}"] = inner.is_file() and not inner.is_symlink()
        else:
            found[entry.name] = entry.is_file() and not entry.is_symlink()
    return found


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def misfits(machine: dict[str, str]) -> list[str]:
    """Return why the wheels do not fit this machine."""
    version = ".".join(platform.python_version_tuple()[:2])
    here = {"python": version, "system": platform.system(), "processor": platform.machine()}
    wrong = [
        f"this machine: {name} {machine[name]!a} is needed, here is {seen}"
        for name, seen in here.items()
        if machine[name] != seen
    ]
    library, found = platform.libc_ver()
    needed = machine["glibc"]
    is_old = library != "glibc" or numbers(found)[:2] < numbers(needed or "0")
    if needed is not None and is_old:
        wrong.append(f"this machine: glibc {needed!a} or newer is needed, here is {found!a}")
    return wrong


def numbers(version: str) -> list[int]:
    """Return the numbers of a version."""
    return [int(word) for word in version.split(".")]


if __name__ == "__main__":
    sys.exit(main(sys.argv))
