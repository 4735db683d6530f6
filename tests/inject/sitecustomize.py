"""Faults at chosen points of real processes, for tests and benches: Python loads this file from PYTHONPATH.

SOLBLOM_FAULT holds {"target": "module:Class.function", "when": "before" | "after", "count": n, "do":
"kill" | "wait" | "clock:SECONDS", "marker": FILE}. At the n-th call the marker is made; it exists
once, so a process that is started again goes on unharmed.
"""

import functools
import importlib.abc
import importlib.machinery
import json
import os
import signal
import sys
import time
from pathlib import Path

_SPEC = json.loads(os.environ.get("SOLBLOM_FAULT", "null"))


def _strike(spec, arguments):
    try:
        os.close(os.open(spec["marker"], os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    Path(spec["marker"] + ".time").write_text(str(time.time()))
    if spec["do"] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if spec["do"] == "wait":  # for whoever cuts the line or fills the disk now
        ends = time.time() + 30
        while not Path(spec["marker"] + ".done").exists() and time.time() < ends:
            time.sleep(0.02)
    if spec["do"].startswith("clock:"):
        import datetime

        shift = datetime.timedelta(seconds=float(spec["do"].split(":")[1]))
        arguments[0]._clock = lambda: datetime.datetime.now(datetime.UTC) + shift


def _wrapped(function, spec):
    calls = {"n": 0}

    @functools.wraps(function)
    def call(*arguments, **named):
        calls["n"] += 1
        hit = calls["n"] == spec["count"]
        if hit and spec["when"] == "before":
            _strike(spec, arguments)
        result = function(*arguments, **named)
        if hit and spec["when"] == "after":
            _strike(spec, arguments)
        return result

    return call


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, module):
        self._module = module

    def find_spec(self, name, path=None, target=None):
        if name != self._module:
            return None
        sys.meta_path.remove(self)
        found = importlib.machinery.PathFinder.find_spec(name, path)
        if found is None or found.loader is None:
            return None
        execute = found.loader.exec_module

        def exec_module(module):
            execute(module)
            *owners, last = _SPEC["target"].split(":")[1].split(".")
            place = module
            for owner in owners:
                place = getattr(place, owner)
            setattr(place, last, _wrapped(getattr(place, last), _SPEC))

        found.loader.exec_module = exec_module
        return found


if _SPEC is not None:
    sys.meta_path.insert(0, _Finder(_SPEC["target"].split(":")[0]))
