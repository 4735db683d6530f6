"""What a TorchScript file may call, read from its own text before torch loads it.

TorchScript is code, and some of what torch offers it reaches beyond tensors: `torch.from_file` and `torch.save` read
and write any file of the user, even while a file is loaded (`__setstate__`), and whole families of operations open
sockets or shared memory (measured with torch 2.13). An encoder needs none of these. This is a second lock: the first is
that a hospital lists only what it has approved.
"""

import ast
import io
import zipfile
from collections.abc import Iterator
from itertools import pairwise

FORBIDDEN = frozenset({"from_file", "save", "print"})
"""Names of torch that reach files or a terminal."""
FAMILIES = frozenset({"aten", "prim", "quantized"})
"""Operations beside `torch.`, by their first name, and classes of torch's own: those that compute."""
MOST_TEXT = 2**26  # bytes of one text; encoders of a billion weights have less than one million


class TorchScriptError(Exception):
    """A file is no TorchScript that may run; the text says why."""


def checked_archive(data: bytes) -> io.BytesIO:
    """Return the archive, written anew from the very members that were checked: zip readers can be told apart.

    Raises:
        TorchScriptError: it is none, or calls more than an encoder needs.
    """
    fresh = io.BytesIO()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(fresh, "w") as out:
            members = archive.infolist()
            _check_members(members, len(data))
            for member in members:
                content = archive.read(member)
                if member.filename.endswith(".py"):
                    _check_text(content)
                out.writestr(member.filename, content)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, EOFError, ValueError):
        raise TorchScriptError("it is no whole archive") from None
    fresh.seek(0)
    return fresh


def _check_members(members: list[zipfile.ZipInfo], size: int) -> None:
    names = [member.filename for member in members]
    if len(set(names)) != len(names):
        raise TorchScriptError("two of its members have one name")
    # Weights are stored as they are, so an archive is about as large as what is in it.
    if sum(member.file_size for member in members) > 2 * size + MOST_TEXT:
        raise TorchScriptError("it claims far more than it holds")
    if any(name.split("/")[-1] == "model.json" for name in names):
        raise TorchScriptError("it is of a form that torch left in 2019")
    if any(m.filename.endswith(".py") and m.file_size > MOST_TEXT for m in members):
        raise TorchScriptError("its text is too long")


def _check_text(text: bytes) -> None:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise TorchScriptError("its text cannot be read") from None
    for parts in _names(tree):
        if FORBIDDEN & set(parts):
            raise TorchScriptError(f"it calls {'.'.join(parts)}, which an encoder does not need")
        for before, family in pairwise(parts):
            if before in ("ops", "classes") and family not in FAMILIES:
                raise TorchScriptError(f"it uses {before}.{family}, which an encoder does not need")


def _names(tree: ast.AST) -> Iterator[list[str]]:
    """Give each name with what stands before it, such as ["torch", "save"]."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name):
            parts: list[str] = []
            inner: ast.AST = node
            while isinstance(inner, ast.Attribute):
                parts.append(inner.attr)
                inner = inner.value
            if isinstance(inner, ast.Name):
                parts.append(inner.id)
            yield parts[::-1]
