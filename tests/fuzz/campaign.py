"""`make fuzz`: all targets in turn until the minutes are over; what is found is kept as an example."""

import argparse
import hashlib
import random
import sys
import time
import traceback
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

from fuzz.guard import run_guarded
from fuzz.mutation import mutated
from fuzz.target import Target
from fuzz.targets import TARGETS

EXAMPLES = Path(__file__).parent / "examples"
AT_ONCE = 100  # messages between two looks at the clock


def run(target: Target, *, seconds: float, start: int) -> tuple[int, str | None]:
    """Try a target for some seconds; return how many messages it got, and the trace of a finding."""
    count, last, until = 0, b"", time.monotonic() + seconds
    while time.monotonic() < until:

        @seed(start + count)
        @settings(
            max_examples=AT_ONCE,
            deadline=None,
            database=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        )
        @given(mutated(target.seeds()))
        def attempt(data: bytes) -> None:
            nonlocal count, last
            count, last = count + 1, data
            run_guarded(target, data)

        try:
            attempt()
        except Exception:
            keep(target, last)
            return count, traceback.format_exc()
    return count, None


def keep(target: Target, data: bytes) -> Path:
    """Keep a message that broke a parser; the tests try it again for ever."""
    folder = EXAMPLES / target.name
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{hashlib.sha256(data).hexdigest()[:16]}.bin"
    path.write_bytes(data)
    return path


def main() -> int:
    """Run the campaign; 1 where something was found."""
    asked = argparse.ArgumentParser(description="Fuzz every parser that meets outside bytes")
    asked.add_argument("--minutes", type=float, default=10.0)
    asked.add_argument("--seed", type=int, default=None, help="default: drawn, and printed")
    asked.add_argument("--only", default=None, help="one target")
    wanted = asked.parse_args()
    start = random.SystemRandom().randrange(2**32) if wanted.seed is None else wanted.seed
    targets = [t for t in TARGETS if wanted.only in (None, t.name)]
    seconds = wanted.minutes * 60 / len(targets)
    print(f"seed {start}, {len(targets)} targets, {seconds:.0f} s each", flush=True)
    found = 0
    for target in targets:
        count, trace = run(target, seconds=seconds, start=start)
        found += trace is not None
        print(f"{target.name:20} {count:8} messages  {'FOUND' if trace else 'ok'}", flush=True)
        if trace:
            print(trace, file=sys.stderr, flush=True)
    print(f"{found} found" + ("; kept in tests/fuzz/examples" if found else ""))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
