"""How a well-formed message becomes a broken one: bytes cut, doubled and flipped, JSON members replaced."""

import json
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

TOKENS = (
    b"",
    b"\x00",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b'"',
    b"\\",
    b"\n",
    b"\r",
    b",",
    b"[[",
    b"]]",
    b"{",
    b"}",
    b"=",
    b"-",
    b"nan",
    b"inf",
    b"1e999",
    b"-0",
    b"null",
    b"\xed\xa0\x80",
    b"\xf0\x9f\x92\x8a",
    b"../",
    b"9" * 40,
    b"9" * 5000,
    b"[" * 2000,
    b"'''",
    b'"""',
)
ODD: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    2**63,
    10**40,
    0.5,
    1e308,
    "",
    "a",
    "\x00",
    "\ud800",
    "å" * 300,
    "x" * 70_000,
    "sha256:" + "0" * 64,
    [],
    {},
    [[]],
    [None],
    {"": None},
)


@st.composite
def mutated(draw: DrawFn, seeds: tuple[bytes, ...]) -> bytes:
    """Draw a seed with a few changes, or bytes out of nothing."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=400))
    seed = draw(st.sampled_from(seeds))
    if draw(st.booleans()):
        found = draw(_json_mutated(seed))
        if found is not None:
            return found
    return draw(_byte_mutated(seed))


@st.composite
def _byte_mutated(draw: DrawFn, seed: bytes) -> bytes:
    data = bytearray(seed)
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 30)))
        match draw(st.integers(0, 5)):
            case 0:
                data[start:end] = b""
            case 1:
                data[start:start] = draw(st.sampled_from(TOKENS))
            case 2:
                data[start:end] = draw(st.binary(max_size=8))
            case 3:
                del data[start:]
            case 4:
                data[start:start] = data[start:end] * draw(st.integers(1, 50))
            case _:
                if start < len(data):
                    data[start] ^= 1 << draw(st.integers(0, 7))
    return bytes(data)


@st.composite
def _json_mutated(draw: DrawFn, seed: bytes) -> bytes | None:
    """Draw JSON with some members replaced, left out or added; None where the seed is no JSON."""
    try:
        value = json.loads(seed)
    except ValueError:
        return None
    for _ in range(draw(st.integers(1, 3))):
        value = _changed(draw, value)
    # As a signer would spell it: canonical_json refuses what no message can hold.
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return text.encode("utf-8", "surrogatepass")


def _changed(draw: DrawFn, value: Any) -> Any:
    if isinstance(value, dict) and value and draw(st.integers(0, 3)):
        name = draw(st.sampled_from(sorted(value)))
        rest = {key: inner for key, inner in value.items() if key != name}
        match draw(st.integers(0, 4)):
            case 0:
                return rest
            case 1:
                return {**value, draw(st.text(max_size=5)): draw(_odd())}
            case _:
                return {**rest, name: _changed(draw, value[name])}
    if isinstance(value, list) and value and draw(st.integers(0, 3)):
        place = draw(st.integers(0, len(value) - 1))
        match draw(st.integers(0, 3)):
            case 0:
                return value[:place] + value[place + 1 :]
            case 1:
                return [*value, value[place]]
            case _:
                return [*value[:place], _changed(draw, value[place]), *value[place + 1 :]]
    return draw(_odd())


def _odd() -> SearchStrategy[Any]:
    return st.one_of(
        st.sampled_from(ODD),
        st.text(max_size=20),
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
    )
