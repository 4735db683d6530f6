"""The process that opens slides: C decoders and encoder files meet it and nothing else, without a network.

It gets a line of JSON on stdin for each slide and answers with one: what became of it. Its words name nothing of a
file. A slide that kills it is a slide that cannot be used; the others go on in a new process (pool.py).

It is no jail: it may read and write what its user may. What it cannot do is open a network.
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

GIB = 1024**3


def main() -> None:
    """Take a set-up line, then a slide a line, until stdin ends."""
    lines = _lines()
    setup = next(lines)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # a library that prints does not break an answer
    from solblom_client.service.isolation import isolate, require
    from solblom_protocol.errors import SolblomError

    try:
        # Before decoders, torch and onnxruntime are loaded: threads that they start must be cut off too.
        reached = isolate(memory_bytes=int(setup["memory_gib"] * GIB))
        if setup["isolation"] == "required":
            require(reached)
        from solblom_client.slides.work import SlideWork

        work = SlideWork(setup["contract"], setup["encoder"])
    except SolblomError as error:
        _answer(answers, {"error": [error.code, error.message, error.hint]})
        return
    _answer(answers, {"ready": True, "isolation": reached.level})
    for asked in lines:
        annotations = None if asked["annotations"] is None else Path(asked["annotations"])
        _answer(answers, work.one(Path(asked["slide"]), Path(asked["out"]), annotations))


def _lines() -> Iterator[dict[str, Any]]:
    for line in sys.stdin:
        yield json.loads(line)


def _answer(stream: Any, answer: dict[str, Any]) -> None:
    stream.write(json.dumps(answer) + "\n")
    stream.flush()


if __name__ == "__main__":
    main()
