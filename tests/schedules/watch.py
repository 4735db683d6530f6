"""What a vault really does, seen from inside its process, and the means to let it die at any point of it.

Functions of the product are wrapped, never replaced: each wrapper notes what passes and calls the
original. Noise and coins are noted as they leave the key stream, inputs as they enter the training;
nothing is believed because a receipt or the ledger says so.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from solblom_client import approval as approval_module
from solblom_client import vault as vault_module
from solblom_client.anchor import Anchor
from solblom_client.keystream import KeyStream
from solblom_client.state import VaultState

# Where the machine may die, in the order of one round; some are passed several times.
POINTS = (
    "before a transaction",
    "before a commit",
    "after a commit",
    "before the anchor is written",
    "with the anchor half written",
    "after the anchor is written",
    "before rows are read",
    "after the cohort is joined",
    "before training",
    "while noise is drawn",
    "after training",
    "before the receipt",
    "before the reply is stored",
    "before the reply has left",
)
PASSED_OFTEN = POINTS[:6]


class Killed(BaseException):
    """The machine died; no `except Exception` of the product may go on after it."""


@dataclass(frozen=True)
class Trap:
    """What happens when a point is passed for the nth time: the machine dies, or an error is raised."""

    point: str
    nth: int
    kills: bool


@dataclass(frozen=True)
class Asked:
    """An order on its way: what its coordinator asks, and the sealed bytes."""

    study: str
    run: str
    round: int
    model: str
    sealed: bytes

    @property
    def request(self) -> tuple[str, str, int, str]:
        """What makes it the same request, whatever the attempt or the courier."""
        return (self.study, self.run, self.round, self.model)


@dataclass
class Training:
    """One training that really began: what went in, and which random numbers came out of the key stream."""

    asked: Asked
    patients: str  # who they were, and their rows
    inputs: str
    event: tuple[str, str, int]  # sampling rate, noise multiplier, steps
    noise: bytes = b""
    coins: bytes = b""
    update: bytes = b""
    done: tuple[float, int] | None = None  # real noise over clipping norm, real steps


@dataclass
class Watch:
    """Passes everything that is seen to the machine under test."""

    trap: Trap | None = None
    sprung: Trap | None = None
    asked: Asked | None = None
    passed: Counter[str] = field(default_factory=Counter)
    trainings: list[Training] = field(default_factory=list)
    joined: str | None = None  # the patients of today, once consent was joined
    before_death: Callable[[], None] = lambda: None
    before_rows: Callable[[], None] = lambda: None

    def begin(self, asked: Asked, trap: Trap | None) -> None:
        """Watch one order from here on."""
        self.asked, self.trap, self.sprung = asked, trap, None
        self.trainings, self.joined = [], None
        self.passed.clear()

    def end(self) -> None:
        """Set no trap any more: the order is answered, or was never going to be."""
        self.trap = None

    def here(self, point: str) -> None:
        """Note that a point is passed; die there if a trap is set.

        Raises:
            Killed: the trap kills.
            OSError: the trap is an ordinary error.
        """
        self.passed[point] += 1
        trap = self.trap
        if trap is None or trap.point != point or self.passed[point] != trap.nth:
            return
        self.trap, self.sprung = None, trap
        if trap.kills:
            self.before_death()
            raise Killed
        raise OSError("the disk, the memory, the power")


@contextmanager
def watched() -> Iterator[Watch]:
    """Wrap the product's functions while the block runs."""
    watch = Watch()
    with ExitStack() as stack:
        for target, name, wrapper in (
            (VaultState, "transaction", _transaction),
            (Anchor, "write", _anchor_write),
            (Path, "replace", _replace),
            (vault_module, "open_source", _open_source),
            (vault_module, "join_cohort", _join_cohort),
            (vault_module, "train", _train),
            (KeyStream, "normals", _normals),
            (KeyStream, "integers", _integers),
            (vault_module, "export_update", _export_update),
            (vault_module, "write_result", _write_result),
        ):
            wrapped = wrapper(watch, getattr(target, name))
            stack.enter_context(mock.patch.object(target, name, wrapped))
        # Looking for installed tasks and checking the study's signature take half of an order's
        # time and are no part of the ledger: done once.
        for name in ("find_task", "open_study"):
            once = _once(getattr(approval_module, name))
            stack.enter_context(mock.patch.object(approval_module, name, once))
        yield watch


def _once(real: Any) -> Any:
    known: dict[Any, Any] = {}

    def once(first: Any, *others: Any) -> Any:
        if first not in known:
            known[first] = real(first, *others)
        return known[first]

    return once


def _transaction(watch: Watch, real: Any) -> Any:
    @contextmanager
    def transaction(self: VaultState) -> Iterator[None]:
        watch.here("before a transaction")
        with real(self):
            yield
            watch.here("before a commit")
        watch.here("after a commit")

    return transaction


def _anchor_write(watch: Watch, real: Any) -> Any:
    def write(self: Anchor, head: Any) -> None:
        watch.here("before the anchor is written")
        real(self, head)
        watch.here("after the anchor is written")

    return write


def _replace(watch: Watch, real: Any) -> Any:
    def replace(self: Path, target: Any) -> Any:
        if self.suffix == ".partial":
            watch.here("with the anchor half written")
        return real(self, target)

    return replace


def _open_source(watch: Watch, real: Any) -> Any:
    def open_source(*args: Any) -> Any:
        watch.here("before rows are read")
        watch.before_rows()
        return real(*args)

    return open_source


def _join_cohort(watch: Watch, real: Any) -> Any:
    def join_cohort(*args: Any, **kwargs: Any) -> Any:
        cohort = real(*args, **kwargs)
        watch.joined = _patients(cohort.training)
        watch.here("after the cohort is joined")
        return cohort

    return join_cohort


def _train(watch: Watch, real: Any) -> Any:
    def train(task: Any, model: Any, units: Any, settings: Any, *, coins: Any, noise: Any) -> Any:
        assert watch.asked is not None
        watch.here("before training")
        event = (settings.sampling_rate, settings.noise_multiplier, settings.steps)
        patients = _patients(units)
        inputs = _inputs(watch.asked, patients, model, settings)
        watch.trainings.append(Training(watch.asked, patients, inputs, event))
        trace = real(task, model, units, settings, coins=coins, noise=noise)
        multiplier = trace.noise_deviation / trace.clipping_norm
        watch.trainings[-1].done = (multiplier, len(trace.batch_sizes))
        watch.here("after training")
        return trace

    return train


def _patients(units: Any) -> str:
    """Return one name for these patients with these rows."""
    rows = units.features.tobytes() + units.labels.tobytes()
    return hashlib.sha256(repr(units.ids).encode() + rows).hexdigest()


def _inputs(asked: Asked, patients: str, model: Any, settings: Any) -> str:
    """Return one name for everything that the update depends on, read from what training was given."""
    hashed = hashlib.sha256(repr((asked.request, patients, settings)).encode())
    for parameter in model.parameters():
        hashed.update(parameter.detach().numpy().tobytes())
    return hashed.hexdigest()


def _normals(watch: Watch, real: Any) -> Any:
    def normals(self: KeyStream, count: int) -> Any:
        drawn = real(self, count)
        if watch.trainings and not watch.trainings[-1].noise:
            watch.trainings[-1].noise = drawn.numpy().tobytes()
        watch.here("while noise is drawn")
        return drawn

    return normals


def _integers(watch: Watch, real: Any) -> Any:
    def integers(self: KeyStream, count: int) -> Any:
        drawn = real(self, count)
        if watch.trainings and not watch.trainings[-1].coins:
            watch.trainings[-1].coins = drawn.tobytes()
        return drawn

    return integers


def _export_update(watch: Watch, real: Any) -> Any:
    def export_update(*args: Any, **kwargs: Any) -> Any:
        update = real(*args, **kwargs)
        watch.trainings[-1].update = update
        return update

    return export_update


def _write_result(watch: Watch, real: Any) -> Any:
    def write_result(*args: Any, **kwargs: Any) -> Any:
        watch.here("before the receipt")
        sealed = real(*args, **kwargs)
        watch.here("before the reply is stored")
        return sealed

    return write_result
