"""What a vault really does, seen from inside its process, and the means to let it die at any point of it.

Functions of the product are wrapped, never replaced: each wrapper notes what passes and calls the
original. Noise and coins are noted as they leave the key stream, inputs as they enter the training;
nothing is believed because a receipt or the ledger says so.
"""

import hashlib
import hmac
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest import mock

from solblom_client import answers as answers_module
from solblom_client import vault as vault_module
from solblom_client.approvals import approval as approval_module
from solblom_client.budget.anchor import Anchor
from solblom_client.state import VaultState
from solblom_client.training.keystream import KeyStream

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
    "before the work",
    "while noise is drawn",
    "after the work",
    "before the receipt",
    "before the reply is stored",
    "before the reply has left",
)
PASSED_OFTEN = POINTS[:6]
SPLIT_KEY = b"s" * 32  # the laboratory's: decides who is a test patient
TEST_FRACTION = Decimal("0.3")


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

    kind: str  # train, evaluate or describe
    study: str
    run: str
    round: int
    model: str
    sealed: bytes

    @property
    def charged_as(self) -> tuple[Any, ...]:
        """Under which study, run, kind and round its charge stands; Table 1 is the same in every run."""
        if self.kind == "describe":
            return (self.study, self.kind)
        return (self.study, self.kind, self.run, self.round)

    @property
    def request(self) -> tuple[Any, ...]:
        """What makes it the same request, whatever the attempt or the courier."""
        return (*self.charged_as, self.model)


Event = tuple[str, Decimal, Decimal, int, Decimal, Decimal]
"""Kind, sampling rate, noise multiplier, steps, and the part of the patients: as seen, not as charged."""


@dataclass
class Drawing:
    """One piece of work that really began: what went in, and which random numbers came out of the key stream."""

    asked: Asked
    patients: str  # who they were, and their rows
    inputs: str
    event: Event
    noise: bytes = b""
    coins: bytes = b""
    made: bytes = b""  # update or release, as it would leave
    done: tuple[float, int] | None = None  # real noise over clipping norm, real steps


@dataclass
class Watch:
    """Passes everything that is seen to the machine under test."""

    trap: Trap | None = None
    sprung: Trap | None = None
    asked: Asked | None = None
    passed: Counter[str] = field(default_factory=Counter)
    drawings: list[Drawing] = field(default_factory=list)
    joined: Any = None  # the patients of today whom the order touches, once consent was joined
    before_death: Callable[[], None] = lambda: None
    before_rows: Callable[[], None] = lambda: None

    def begin(self, asked: Asked, trap: Trap | None) -> None:
        """Watch one order from here on."""
        self.asked, self.trap, self.sprung = asked, trap, None
        self.drawings, self.joined = [], None
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
            (answers_module, "train", _train),
            (answers_module, "add_noise", _add_noise),
            (KeyStream, "normals", _normals),
            (KeyStream, "integers", _integers),
            (answers_module, "export_update", _export),
            (answers_module, "export_release", _export),
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
        assert watch.asked is not None
        groups = {"train": cohort.training, "evaluate": cohort.test, "describe": cohort.everybody}
        watch.joined = groups[watch.asked.kind]
        watch.here("after the cohort is joined")
        return cohort

    return join_cohort


def _train(watch: Watch, real: Any) -> Any:
    def train(
        task: Any,
        model: Any,
        units: Any,
        settings: Any,
        *,
        coins: Any,
        noise: Any,
        look: Any = None,
    ) -> Any:
        assert look is None  # nobody looks at clipped sums but a replay
        watch.here("before the work")
        weights = b"".join(p.detach().numpy().tobytes() for p in model.parameters())
        rate, multiplier = Decimal(settings.sampling_rate), Decimal(settings.noise_multiplier)
        event = ("poisson-gaussian", rate, multiplier, settings.steps, *part_of(units.ids))
        _begin(watch, units, event, repr(settings).encode() + weights)
        trace = real(task, model, units, settings, coins=coins, noise=noise)
        drawn = trace.noise_deviation / trace.clipping_norm
        watch.drawings[-1].done = (drawn, len(trace.batch_sizes))
        watch.here("after the work")
        return trace

    return train


def _add_noise(watch: Watch, real: Any) -> Any:
    def add_noise(counts: Any, *, deviation: str, stream: Any) -> Any:
        watch.here("before the work")
        units = watch.joined
        cells, rest = divmod(int(counts.sum()), len(units.ids))  # in which one patient is counted
        assert rest == 0
        event = ("discrete-gaussian", Decimal(1), Decimal(deviation), cells, *part_of(units.ids))
        _begin(watch, units, event, counts.tobytes() + deviation.encode())
        noisy = real(counts, deviation=deviation, stream=stream)
        watch.here("after the work")
        return noisy

    return add_noise


def _begin(watch: Watch, units: Any, event: Event, others: bytes) -> None:
    """Note that work begins, with one name for everything that its result depends on."""
    assert watch.asked is not None
    patients = name_of(units)
    hashed = hashlib.sha256(repr((watch.asked.request, patients)).encode() + others)
    watch.drawings.append(Drawing(watch.asked, patients, hashed.hexdigest(), event))


def name_of(units: Any) -> str:
    """Return one name for these patients with these rows."""
    rows = units.features.tobytes() + units.labels.tobytes()
    return hashlib.sha256(repr(units.ids).encode() + rows).hexdigest()


def part_of(ids: tuple[str, ...]) -> tuple[Decimal, Decimal]:
    """Return the part of the line on which these patients stand, by their ids (privacy.md rule 4)."""
    codes = [hmac.new(SPLIT_KEY, patient.encode(), hashlib.sha256).digest() for patient in ids]
    tested = {int.from_bytes(code[:8], "big") < int(TEST_FRACTION * 2**64) for code in codes}
    low, high = Decimal(0), Decimal(1)
    if tested == {True}:
        high = TEST_FRACTION
    elif tested == {False}:
        low = TEST_FRACTION
    return low, high


def _normals(watch: Watch, real: Any) -> Any:
    def normals(self: KeyStream, count: int) -> Any:
        drawn = real(self, count)
        if watch.drawings and not watch.drawings[-1].noise:
            watch.drawings[-1].noise = drawn.numpy().tobytes()
        watch.here("while noise is drawn")
        return drawn

    return normals


def _integers(watch: Watch, real: Any) -> Any:
    """Integers are coins in a training, the noise itself in a release; the first one tells streams apart."""

    def integers(self: KeyStream, count: int) -> Any:
        drawn = real(self, count)
        if watch.drawings:
            drawing = watch.drawings[-1]
            if drawing.event[0] == "discrete-gaussian":
                drawing.noise = drawing.noise or drawn.tobytes()
                watch.here("while noise is drawn")
            elif not drawing.coins:
                drawing.coins = drawn.tobytes()
        return drawn

    return integers


def _export(watch: Watch, real: Any) -> Any:
    def export(*args: Any, **kwargs: Any) -> Any:
        watch.drawings[-1].made = real(*args, **kwargs)
        return watch.drawings[-1].made

    return export


def _write_result(watch: Watch, real: Any) -> Any:
    def write_result(*args: Any, **kwargs: Any) -> Any:
        watch.here("before the receipt")
        sealed = real(*args, **kwargs)
        watch.here("before the reply is stored")
        return sealed

    return write_result
