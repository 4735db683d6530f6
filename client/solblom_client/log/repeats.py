"""What repeats is written into the log of decisions once an hour, and counted: anybody can send garbage again."""

import datetime as dt
import sqlite3

from solblom_protocol.messages.message import timestamp

MOST_KINDS = 200  # of repeating decisions in an hour; what comes after them is counted together


def is_new(
    database: sqlite3.Connection,
    event: str,
    code: str | None,
    about: str | None,
    *,
    always: bool,
    now: dt.datetime,
) -> bool:
    """Tell whether this event about this digest is the first of its kind in this hour; count it otherwise.

    With `always` it stands by itself, however many other kinds the hour has had.
    """
    name = f"{event}/{code}/{about}"
    count = database.execute("SELECT count FROM repeats WHERE name = ?", (name,)).fetchone()
    kinds = database.execute("SELECT count(*) FROM repeats").fetchone()[0]
    if count is None and kinds >= MOST_KINDS and not always:
        name, event, code = "others", "others", None
        count = database.execute("SELECT count FROM repeats WHERE name = 'others'").fetchone()
    row = (name, timestamp(now)[:13], event, code, 1 + (count[0] if count else 0))
    database.execute("INSERT OR REPLACE INTO repeats VALUES (?, ?, ?, ?, ?)", row)
    return count is None and name != "others"


def repeats_before(
    database: sqlite3.Connection, now: dt.datetime
) -> list[tuple[str, str | None, int]]:
    """Return how often each event and code repeated in hours before this one, and forget it."""
    hour = timestamp(now)[:13]
    rows = database.execute(
        "SELECT event, code, sum(count - (name <> 'others')) FROM repeats WHERE hour <> ?"
        " GROUP BY event, code ORDER BY event, code",
        (hour,),
    ).fetchall()
    database.execute("DELETE FROM repeats WHERE hour <> ?", (hour,))
    return [(event, code, times) for event, code, times in rows if times]
