"""`solblom steward serve` as a person starts and ends it."""

import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

from integration.demo_run import environment


def test_the_command_prints_a_link_that_opens_the_page_and_ends_at_ctrl_c(home: Path) -> None:
    kept = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    served = subprocess.Popen(
        [sys.executable, "-c", "from solblom_protocol.cli import main; main()", "steward", "serve",
         "--home", str(home), "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment() | kept,
    )  # fmt: skip
    try:
        assert served.stdout is not None
        link = served.stdout.readline().strip()
        assert link.startswith("http://127.0.0.1:")
        jar = urllib.request.HTTPCookieProcessor()
        with urllib.request.build_opener(jar).open(link, timeout=60) as answer:
            assert "Studies, runs and models" in answer.read().decode()
    finally:
        served.send_signal(signal.SIGINT)
        out, err = served.communicate(timeout=60)
    assert served.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    assert "token" not in err
