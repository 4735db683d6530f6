"""Workers that open slides, each a process that may die of one: the next slide gets a new one."""

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from solblom_protocol.errors import CODES, ConfigurationError, IntegrityError, SolblomError

WORKER = "solblom_client.slides.worker"
DIED = "it ended the process that read it"
MOST_ANSWER = 1 << 20  # characters of a line
HUNG = "it took longer than vault.order_minutes"


@dataclass(frozen=True)
class Setup:
    """What every worker is told first.

    Attributes:
        contract: as JSON.
        encoder: file of weights, as this hospital lists it.
        memory_gib: the most that a worker may have.
        isolation: `required` or `best-effort`, as vault.isolation.
        slide_minutes: after which a slide is given up.
    """

    contract: str
    encoder: str | None
    memory_gib: float
    isolation: str
    slide_minutes: float


@dataclass(frozen=True)
class Job:
    """One slide: where it lies, where its features go, and what a pathologist has drawn."""

    slide: Path
    out: Path
    annotations: Path | None = None


class _Worker:
    """One process, started when it is needed."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._process: subprocess.Popen[str] | None = None

    def ask(self, job: Job) -> dict[str, Any]:
        """Return what became of a slide.

        Raises:
            SolblomError: the encoder cannot be used, or the process cannot be cut off from the network.
        """
        process = self._running()
        request = {
            "slide": str(job.slide),
            "out": str(job.out),
            "annotations": None if job.annotations is None else str(job.annotations),
        }
        answer = self._exchange(process, request, minutes=self._setup.slide_minutes)
        return {"problem": DIED} if answer is None else answer

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _running(self) -> "subprocess.Popen[str]":
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.close()  # what died between two slides is no fault of the next one
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-I", "-m", WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # decoders put what they read of a file into their words
            text=True,
            encoding="utf-8",
        )
        setup = self._setup
        first = {
            "contract": setup.contract,
            "encoder": setup.encoder,
            "memory_gib": setup.memory_gib,
            "isolation": setup.isolation,
        }
        ready = self._exchange(self._process, first, minutes=setup.slide_minutes)
        if ready is None or "problem" in ready:
            raise ConfigurationError(
                "SB-119",
                "The process that opens slides does not start",
                f"Try: {Path(sys.executable).name} -m {WORKER} < /dev/null",
            )
        if "error" in ready:
            self.close()
            raise _error(*ready["error"])
        return self._process

    def _exchange(
        self, process: "subprocess.Popen[str]", line: dict[str, Any], *, minutes: float
    ) -> dict[str, Any] | None:
        """Return the answer to a line; None where the process died of it."""
        if process.stdin is None or process.stdout is None:
            raise TypeError("a worker has pipes")
        hung = threading.Event()

        def give_up() -> None:
            hung.set()
            process.kill()

        timer = threading.Timer(minutes * 60, give_up)
        timer.daemon = True
        timer.start()
        try:
            process.stdin.write(json.dumps(line) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline(MOST_ANSWER)
        except (OSError, ValueError):
            answer = ""
        finally:
            timer.cancel()
        with contextlib.suppress(ValueError):  # half a line, of a process that died in it
            found = json.loads(answer)
            if isinstance(found, dict):
                return found
        self.close()
        return {"problem": HUNG} if hung.is_set() else None


def run_jobs(
    jobs: Sequence[Job], setup: Setup, *, processes: int, done: Callable[[], None]
) -> list[dict[str, Any]]:
    """Return what became of each slide: `facts`, or a `problem`; `done` is called after each, in any thread.

    Raises:
        SolblomError: the encoder cannot be used, or a process cannot be cut off from the network.
    """
    workers = [_Worker(setup) for _ in range(max(1, min(processes, len(jobs))))]
    free = list(workers)
    lock = threading.Lock()

    def one(job: Job) -> dict[str, Any]:
        with lock:
            worker = free.pop()
        try:
            answer = worker.ask(job)
        finally:
            with lock:
                free.append(worker)
        if "error" in answer:
            raise _error(*answer["error"])
        done()
        return answer

    with ThreadPoolExecutor(len(workers)) as pool:
        futures = [pool.submit(one, job) for job in jobs]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()
            for worker in workers:
                worker.close()


def _error(code: str, message: str, hint: str) -> SolblomError:
    kind = IntegrityError if CODES[code].exit_status == 5 else ConfigurationError
    return kind(code, message, hint)
