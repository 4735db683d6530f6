"""The ledger never forgets and never gives more than it has: caps, crashes, damage, races."""

import math
import sqlite3
import subprocess
import sys
import tempfile
import threading
from itertools import takewhile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab import NOW, LabHospital
from solblom_client.budget.anchor import Anchor
from solblom_client.budget.ledger import Ledger, Request, Reservation, StudyLimits
from solblom_client.policy import PolicyTable
from solblom_client.state import VaultState, create_state
from solblom_client.vault import Vault
from solblom_models.accountant import pld_epsilon, rdp_epsilon
from solblom_protocol.errors import IntegrityError, RefusedError, SolblomError
from solblom_protocol.studies.privacy_event import PrivacyEvent

EVENT = PrivacyEvent("poisson-gaussian", "0.500000", "2.0000", 1)
NO_PRIVACY = PrivacyEvent("no-privacy", "1.000000", "0", 1)
POLICY = PolicyTable(tasks=("any",), study_signers=("any",))
LIMITS = StudyLimits(3.0, 1e-5)
GENEROUS = PolicyTable(
    tasks=("any",), study_signers=("any",), epsilon_budget=1000.0, study_epsilon=1000.0
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "vault.sqlite"
    create_state(file, Ledger.initial_meta(POLICY))
    return file


@pytest.fixture
def ledger(path: Path) -> Ledger:
    return open_ledger(path)


def open_ledger(file: Path) -> Ledger:
    """Open a ledger anew, as another process would, with an anchor beside it."""
    return Ledger(VaultState(file), Anchor(file.with_suffix(".anchor")))


def request(name: str, *, study: str = "one", event: PrivacyEvent = EVENT) -> Request:
    return Request(digest=name, study=study, run=f"run-{study}", round=1, event=event)


def reserve(
    ledger: Ledger,
    name: str,
    *,
    study: str = "one",
    event: PrivacyEvent = EVENT,
    policy: PolicyTable = POLICY,
    limits: StudyLimits = LIMITS,
) -> Reservation:
    return ledger.reserve(
        request(name, study=study, event=event), policy=policy, limits=limits, now=NOW
    )


def fits(ledger: Ledger, name: str, *, study: str, policy: PolicyTable) -> bool:
    try:
        reserve(ledger, name, study=study, policy=policy)
    except RefusedError:
        return False
    return True


def fill(ledger: Ledger, *, study: str = "one", policy: PolicyTable = POLICY) -> int:
    """Reserve until the ledger says no; return how often it said yes."""
    names = (f"{study}-{number}" for number in range(200))
    return sum(takewhile(bool, (fits(ledger, n, study=study, policy=policy) for n in names)))


# --- Caps


def test_a_study_stops_at_the_last_event_that_fits_its_epsilon(ledger: Ledger) -> None:
    count = fill(ledger)
    assert pld_epsilon([EVENT] * count, 1e-5) <= 3.0 < pld_epsilon([EVENT] * (count + 1), 1e-5)


def test_the_smaller_of_the_study_and_the_policy_is_the_cap(ledger: Ledger) -> None:
    strict = PolicyTable(tasks=("any",), study_signers=("any",), study_epsilon=1.5)
    count = fill(ledger, policy=strict)
    assert pld_epsilon([EVENT] * count, 1e-5) <= 1.5 < pld_epsilon([EVENT] * (count + 1), 1e-5)


def test_a_study_is_measured_at_the_smaller_delta_of_the_node_too(ledger: Ledger) -> None:
    strict = PolicyTable(tasks=("any",), study_signers=("any",), delta=1e-9)
    count = fill(ledger, policy=strict)
    assert pld_epsilon([EVENT] * count, 1e-9) <= 3.0 < pld_epsilon([EVENT] * (count + 1), 1e-9)


def test_the_lifetime_is_filtered_over_all_studies_at_one_order(ledger: Ledger) -> None:
    counts = [fill(ledger, study=f"study-{n}") for n in range(8)]
    total, order = sum(counts), ledger.filter_order
    assert counts[-1] == 0
    assert rdp_epsilon([EVENT] * total, 1e-5, order=order) <= POLICY.epsilon_budget
    assert rdp_epsilon([EVENT] * (total + 1), 1e-5, order=order) > POLICY.epsilon_budget


def test_the_order_of_the_filter_is_fixed_when_the_ledger_is_made(path: Path) -> None:
    made = open_ledger(path).filter_order
    with sqlite3.connect(path) as connection:
        stored = connection.execute("SELECT value FROM meta WHERE key = 'filter_order'").fetchone()
    connection.close()
    assert stored == (str(made),)


def test_a_spent_budget_is_a_refusal_with_its_own_code(ledger: Ledger) -> None:
    fill(ledger)
    with pytest.raises(RefusedError) as error:
        reserve(ledger, "one more")
    assert error.value.code == "SB-204"


def test_a_refused_request_leaves_no_trace_in_the_ledger(ledger: Ledger) -> None:
    count = fill(ledger)
    assert len(ledger.entries()) == count


def test_a_reservation_costs_as_much_as_a_spent_event(ledger: Ledger) -> None:
    reservation = reserve(ledger, "one")
    reserved = ledger.lifetime_epsilon(1e-5)
    ledger.mark_spent(ledger.bind(reservation, "work"))
    assert ledger.lifetime_epsilon(1e-5) == reserved > 0


def test_no_privacy_costs_infinity(ledger: Ledger) -> None:
    reserve(ledger, "off", event=NO_PRIVACY, limits=StudyLimits(None, 1e-5))
    assert ledger.lifetime_epsilon(1e-5) == math.inf


def test_after_no_privacy_nothing_fits_any_more(ledger: Ledger) -> None:
    reserve(ledger, "off", event=NO_PRIVACY, limits=StudyLimits(None, 1e-5))
    with pytest.raises(RefusedError):
        reserve(ledger, "later", study="two", policy=GENEROUS)


def test_no_privacy_in_a_study_that_promises_epsilon_is_refused(ledger: Ledger) -> None:
    with pytest.raises(RefusedError):
        reserve(ledger, "lie", event=NO_PRIVACY, policy=GENEROUS, limits=StudyLimits(100.0, 1e-5))


# --- Damage


@pytest.mark.parametrize(
    "event",
    [
        '{"kind":"gaussian-differential-privacy","noise_multiplier":"1","sampling_rate":"1","steps":1}',
        '{"kind":"poisson-gaussian","noise_multiplier":"0","sampling_rate":"1","steps":1}',
        '{"kind":"poisson-gaussian"}',
        "[]",
        "not json",
        "",
    ],
    ids=["unknown-kind", "no-noise", "members-missing", "list", "text", "empty"],
)
def test_an_unreadable_event_stops_every_reservation(ledger: Ledger, event: str) -> None:
    reserve(ledger, "one")
    ledger._state.execute("UPDATE events SET event = ?", (event,))
    with pytest.raises(SolblomError):
        reserve(ledger, "two", study="two", policy=GENEROUS)
    count = ledger._state.query("SELECT count(*) FROM events")
    assert count == [(1,)]


def test_an_unknown_event_has_the_ledgers_own_code(ledger: Ledger) -> None:
    reserve(ledger, "one")
    ledger._state.execute("UPDATE events SET event = ?", ("[]",))
    with pytest.raises(IntegrityError) as error:
        ledger.entries()
    assert error.value.code == "SB-402"


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


@pytest.mark.parametrize(
    "damage",
    [None, b"", b"garbage" * 1000, _cut, lambda data: b"\x00" * len(data)],
    ids=["missing", "empty", "garbage", "truncated", "zeros"],
)
def test_a_vault_does_not_open_on_a_damaged_ledger(hospital: LabHospital, damage: object) -> None:
    file = hospital.config.state / "vault.sqlite"
    hospital.vault.close()
    if damage is None:
        file.unlink()
    else:
        file.write_bytes(damage(file.read_bytes()) if callable(damage) else damage)  # type: ignore[arg-type]
    with pytest.raises(IntegrityError) as error:
        Vault(hospital.config)
    assert error.value.code == "SB-402"


def test_a_missing_ledger_is_never_made_anew(hospital: LabHospital) -> None:
    hospital.vault.close()
    (hospital.config.state / "vault.sqlite").unlink()
    with pytest.raises(IntegrityError):
        Vault(hospital.config)
    assert not (hospital.config.state / "vault.sqlite").exists()


@pytest.mark.parametrize("table", ["events", "meta"])
def test_a_ledger_without_its_tables_stops_every_reservation(ledger: Ledger, table: str) -> None:
    ledger._state.execute(f"DROP TABLE {table}", ())
    with pytest.raises(IntegrityError) as error:
        reserve(ledger, "one")
    assert error.value.code == "SB-402"


@pytest.mark.parametrize("order", ["1", "-3", "x", ""])
def test_a_filter_order_that_makes_no_sense_stops_every_reservation(
    ledger: Ledger, order: str
) -> None:
    ledger._state.execute("UPDATE meta SET value = ?", (order,))
    with pytest.raises(IntegrityError) as error:
        reserve(ledger, "one")
    assert error.value.code == "SB-402"


def test_a_full_disk_stops_the_reservation_and_the_next_one_works(ledger: Ledger) -> None:
    connection = ledger._state._connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(IntegrityError) as error:
        reserve(ledger, "r" * 100_000)
    assert error.value.code == "SB-402"
    assert ledger.entries() == []
    connection.execute("PRAGMA max_page_count = 1000000")
    reserve(ledger, "one")
    assert len(ledger.entries()) == 1


def test_a_read_only_ledger_stops_the_reservation(ledger: Ledger) -> None:
    ledger._state._connection.execute("PRAGMA query_only = 1")
    with pytest.raises(IntegrityError) as error:
        reserve(ledger, "one")
    assert error.value.code == "SB-402"


def test_a_reservation_is_on_disk_before_reserve_returns(ledger: Ledger, path: Path) -> None:
    reserve(ledger, "one")
    elsewhere = open_ledger(path)
    assert [entry.status for entry in elsewhere.entries()] == ["reserved"]


def test_a_commit_survives_a_power_cut(ledger: Ledger) -> None:
    connection = ledger._state._connection
    mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
    synchronous = connection.execute("PRAGMA synchronous").fetchone()[0]
    assert synchronous == 3 or (mode != "delete" and synchronous == 2)


# --- Races


def test_threads_that_reserve_at_once_never_exceed_the_cap(path: Path) -> None:
    allowed: list[str] = []
    ledgers = [open_ledger(path) for _ in range(6)]
    barrier = threading.Barrier(len(ledgers))
    single = fill(_fresh(path.with_name("alone.sqlite")))

    def work(name: int) -> None:
        barrier.wait()
        for number in range(single):
            try:
                reserve(ledgers[name], f"{name}-{number}")
            except RefusedError:
                return
            allowed.append(f"{name}-{number}")

    threads = [threading.Thread(target=work, args=(n,)) for n in range(len(ledgers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(allowed) == single == len(ledgers[0].entries())


_PROCESS = """
import datetime as dt
import sys
from pathlib import Path
from solblom_client.budget.anchor import Anchor
from solblom_client.budget.ledger import Ledger, Request, StudyLimits
from solblom_client.policy import PolicyTable
from solblom_client.state import VaultState
from solblom_protocol.errors import RefusedError
from solblom_protocol.studies.privacy_event import PrivacyEvent

path = Path(sys.argv[1])
ledger = Ledger(VaultState(path), Anchor(path.with_suffix(".anchor")))
event = PrivacyEvent("poisson-gaussian", "0.500000", "2.0000", 1)
policy = PolicyTable(tasks=("any",), study_signers=("any",))
now = dt.datetime(2026, 11, 22, 12, tzinfo=dt.UTC)
ledger.lifetime_epsilon(1e-5, (event,))
print("ready", flush=True)
sys.stdin.readline()
done = 0
try:
    while True:
        request = Request(f"{sys.argv[2]}-{done}", "one", "run", 1, event)
        ledger.reserve(request, policy=policy, limits=StudyLimits(3.0, 1e-5), now=now)
        done += 1
except RefusedError:
    print(done)
"""


def test_two_processes_that_reserve_at_once_never_exceed_the_cap(path: Path) -> None:
    command = [sys.executable, "-c", _PROCESS, str(path)]
    pipe = subprocess.PIPE
    processes = [
        subprocess.Popen([*command, name], stdin=pipe, stdout=pipe, text=True)
        for name in ("a", "b")
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    done = [int(process.communicate(timeout=60)[0]) for process in processes]
    count = len(open_ledger(path).entries())
    assert sum(done) == count
    assert pld_epsilon([EVENT] * count, 1e-5) <= 3.0 < pld_epsilon([EVENT] * (count + 1), 1e-5)


# --- Nothing is forgotten

_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "replay", "bind", "spend", "crash"]),
        st.integers(0, 3),
        st.sampled_from(["2.0000", "5.0000"]),
    ),
    max_size=14,
)


@settings(max_examples=20, derandomize=True, deadline=None)
@given(steps=_STEPS)
def test_what_the_ledger_counts_never_becomes_less(steps: list[tuple[str, int, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vault.sqlite"
        ledger = _fresh(file)
        before = 0.0
        for action, number, noise in steps:
            name = f"request-{number}"
            found = ledger.find(name)
            if action == "crash":
                ledger._state.close()
                ledger = open_ledger(file)
            elif action == "reserve" or (action == "replay" and found is None):
                event = PrivacyEvent("poisson-gaussian", "0.500000", noise, 1)
                reserve(ledger, name, event=event, policy=GENEROUS, limits=StudyLimits(100, 1e-5))
            elif action == "bind" and found:
                ledger.bind(found, f"work-{noise}")
            elif action == "spend" and found:
                ledger.mark_spent(found)
            now = ledger.lifetime_epsilon(1e-5)
            assert now >= before
            before = now
        ledger._state.close()


def test_the_newest_charge_of_a_request_is_found(ledger: Ledger) -> None:
    first, second = reserve(ledger, "same"), reserve(ledger, "same")
    found = ledger.find("same")
    assert found is not None
    assert (found.id, found.id > first.id) == (second.id, True)


def test_a_request_that_was_never_reserved_has_no_charge(ledger: Ledger) -> None:
    reserve(ledger, "one")
    assert ledger.find("two") is None


def _fresh(file: Path) -> Ledger:
    create_state(file, Ledger.initial_meta(POLICY))
    return open_ledger(file)
