"""How long one entry of the log of decisions takes to be on disk, and how long its check takes. Prints JSON.

python bench/decision_log.py [--entries 5000] [--folder DIR]
"""

import argparse
import datetime as dt
import json
import statistics
import tempfile
import time
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from solblom_client.decision_log import Decision, DecisionLog, LogPlace, verify_log

NOW = dt.datetime(2026, 11, 22, tzinfo=dt.UTC)


def main() -> None:
    """Write, check and prune a log."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--entries", type=int, default=5000)
    parser.add_argument("--folder", type=Path, default=None, help="On the disk to be measured")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        place = LogPlace(Path(folder) / "log", "north", None)
        key = Ed25519PrivateKey.generate()
        log, took = DecisionLog(place, key), []
        batch = 5  # as many as an order makes
        for number in range(given.entries // batch):
            decisions = [Decision("accepted", order=f"sha256:{number:064x}")] * batch
            began = time.perf_counter()
            log.append(*decisions, now=NOW + dt.timedelta(minutes=number))
            took.append(1000 * (time.perf_counter() - began))
        began = time.perf_counter()
        report = verify_log(place, key.public_key())
        seconds = time.perf_counter() - began
        size = sum(path.stat().st_size for path in place.folder.iterdir())
        log.close()
    print(
        json.dumps(
            {
                "entries": report.size,
                "problems": len(report.problems),
                "append_of_5_ms_median": round(statistics.median(took), 1),
                "append_of_5_ms_p95": round(statistics.quantiles(took, n=20)[-1], 1),
                "verify_seconds": round(seconds, 2),
                "bytes_per_entry": round(size / report.size),
            }
        )
    )


if __name__ == "__main__":
    main()
