"""Claims about a hospital as witness: a log that only grew passes, every other history is refused."""

import random
from collections import Counter
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from log_lab import History, history
from solblom_client.witness import HistoryError, checked_head
from solblom_protocol.logs.transparency import Head, log_origin, sign_note
from solblom_verify.envelope import key_id

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
ORIGIN = log_origin(key_id(KEY.public_key()))
ATTACKS = 1500


def check(seen: Head | None, checkpoint: str | None, proof: tuple[str, ...] = ()) -> Head | None:
    return checked_head(seen, checkpoint, proof, origin=ORIGIN, public=KEY.public_key())


def code(seen: Head | None, checkpoint: str | None, proof: tuple[str, ...] = ()) -> str:
    with pytest.raises(HistoryError) as caught:
        check(seen, checkpoint, proof)
    return caught.value.code


@pytest.mark.parametrize("old", [0, 1, 2, 3, 7, 8, 9, 31, 32, 63])
def test_a_log_that_only_grew_passes(old: int) -> None:
    log = history(KEY, 64)
    assert check(None, log.note(old)) == log.head(old)
    for new in range(old, 65):
        assert check(log.head(old), log.note(new), log.proof(old, new)) == log.head(new)


def test_nothing_is_asked_before_a_log_was_seen() -> None:
    assert check(None, None) is None


def test_a_checkpoint_that_is_left_out_after_one_was_seen_is_refused() -> None:
    assert code(history(KEY, 5).head(5), None) == "SB-414"


@pytest.mark.parametrize(
    "note",
    [
        history(OTHER, 5).note(5),
        sign_note(history(KEY, 5).note(5).partition("\n\n")[0] + "\n", ORIGIN, OTHER),
        sign_note(f"{ORIGIN}\n5\nAAAA\n", ORIGIN, KEY),
        sign_note(f"{ORIGIN}\n5\n", ORIGIN, KEY),
        sign_note(f"{ORIGIN}/other\n5\n{history(KEY, 5).note(5).splitlines()[2]}\n", ORIGIN, KEY),
        sign_note(history(KEY, 5).note(5).partition("\n\n")[0] + "\nmore\n", ORIGIN, KEY),
        "",
        "a text",
        history(KEY, 5).note(5).replace("\n5\n", "\n6\n"),
    ],
    ids=[
        "another log",
        "another key",
        "short root",
        "no root",
        "another origin",
        "a line more",
        "empty",
        "no note",
        "changed size",
    ],
)
def test_a_checkpoint_that_does_not_hold_is_refused(note: str) -> None:
    assert code(None, note) == "SB-415"
    assert code(history(KEY, 4).head(4), note) == "SB-415"


def test_a_proof_with_another_spelling_or_length_is_refused() -> None:
    log, seen = history(KEY, 9), history(KEY, 9).head(5)
    proof = log.proof(5, 9)
    assert code(seen, log.note(9), proof[:-1]) == "SB-413"
    assert code(seen, log.note(9), (*proof, proof[0])) == "SB-413"
    assert code(seen, log.note(9), ()) == "SB-413"
    assert code(seen, log.note(9), (proof[0][:-1], *proof[1:])) == "SB-415"
    assert code(seen, log.note(9), (proof[0] + "\n", *proof[1:])) == "SB-415"


def rewritten(rng: random.Random, log: History, seen: int) -> tuple[str, tuple[str, ...]]:
    """Return how one history within the first `seen` entries was changed, and the entries that come of it."""
    entries, at = list(log.entries), rng.randrange(seen)
    way = rng.choice(["edit", "delete", "insert", "swap", "cut", "two histories", "all new"])
    if way == "edit":
        entries[at] += " "
    elif way == "delete":
        del entries[at]
    elif way == "insert":
        entries.insert(at, '{"new":true}')
    elif way == "swap":
        other = rng.choice([i for i in range(len(entries)) if i != at])
        entries[at], entries[other] = entries[other], entries[at]
    elif way == "cut":
        way, entries = "rollback", entries[: rng.randrange(seen)]
    elif way == "two histories":
        entries = [*entries[:at], *(f'{{"other":{i}}}' for i in range(len(entries) - at))]
    else:
        entries = [f'{{"other":{i}}}' for i in range(len(entries))]
    return way, tuple(entries)


def attacks() -> Iterator[tuple[str, Head, str, tuple[str, ...]]]:
    """Yield what is shown after a head was seen: the best head and proof that a dishonest log can give."""
    rng = random.Random(20261129)  # noqa: S311 - made-up histories
    while True:
        log = history(KEY, rng.randint(2, 200))
        seen = rng.randint(1, log.size)
        way, entries = rewritten(rng, log, seen)
        false = History(KEY, entries)
        if false.size < 1:
            continue
        size = rng.randint(1, false.size)
        if size >= seen and false.head(seen) == log.head(seen):
            continue  # what was seen is as it was: no attack
        if size < seen and false.entries[:size] == log.entries[:size]:
            way = "rollback"
        # The proof of the honest log, of the false one, from another size, or none.
        proofs: list[tuple[str, ...]] = [()]
        if size <= log.size:
            proofs.append(log.proof(min(seen, size), max(seen, size)))
        if size > seen:
            proofs += [false.proof(seen, size), false.proof(rng.randint(1, size), size)]
        yield way, log.head(seen), false.note(size), rng.choice(proofs)


def test_rewritten_history_is_refused_by_one_witness() -> None:
    found: Counter[str] = Counter()
    codes: Counter[str] = Counter()
    for number, (way, seen, note, proof) in enumerate(attacks()):
        if number == ATTACKS:
            break
        codes[code(seen, note, proof)] += 1
        found[way] += 1
    assert sum(codes.values()) == ATTACKS
    assert set(codes) == {"SB-411", "SB-412", "SB-413"}
    assert min(found.values()) >= 100, found
    assert len(found) == 7


def test_two_histories_shown_to_two_hospitals_cannot_both_go_on() -> None:
    """Whichever history the coordinator goes on with, the hospital that saw the other refuses."""
    rng = random.Random(7)  # noqa: S311 - made-up histories
    for _ in range(200):
        common = rng.randint(0, 50)
        one, two = (
            History(KEY, (*history(KEY, common).entries, *history(KEY, rng.randint(1, 30), name=n).entries))
            for n in ("one", "two")
        )  # fmt: skip
        first, second = one.head(one.size), two.head(two.size)
        for seen, shown in ((first, two), (second, one)):
            size = shown.size
            proof = shown.proof(min(seen.size, size), size)
            assert code(seen, shown.note(size), proof) in ("SB-411", "SB-412", "SB-413")
