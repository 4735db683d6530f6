"""The tables of the coordinator's database, and what each newer layout adds."""

SCHEMA_VERSION = 3
SUMS = """
CREATE TABLE sums (
  run TEXT NOT NULL, place INTEGER NOT NULL, participants TEXT NOT NULL, survivors TEXT,
  PRIMARY KEY (run, place)
) STRICT;
"""
LINKS = """
CREATE TABLE links (
  site TEXT PRIMARY KEY, transport_key TEXT NOT NULL,
  route TEXT NOT NULL CHECK (route IN ('network', 'files')), node_id TEXT,
  state TEXT, code TEXT, heard TEXT
) STRICT;
"""
SCHEMA = """
CREATE TABLE runs (
  id TEXT PRIMARY KEY, study TEXT NOT NULL, name TEXT NOT NULL, number INTEGER NOT NULL,
  status TEXT NOT NULL, transport TEXT NOT NULL, simulation INTEGER NOT NULL,
  started TEXT NOT NULL, ended TEXT, reason TEXT, envelope BLOB NOT NULL, roster TEXT NOT NULL,
  UNIQUE (study, number)
) STRICT;
CREATE TABLE rounds (
  run TEXT NOT NULL, round INTEGER NOT NULL, status TEXT NOT NULL, base TEXT NOT NULL, result TEXT,
  opened TEXT NOT NULL, closed TEXT, PRIMARY KEY (run, round)
) STRICT;
CREATE TABLE orders (
  digest TEXT PRIMARY KEY, run TEXT NOT NULL, round INTEGER NOT NULL, site TEXT NOT NULL,
  attempt INTEGER NOT NULL, issued TEXT NOT NULL, kind TEXT NOT NULL, sealed TEXT NOT NULL,
  UNIQUE (run, kind, round, site, attempt)
) STRICT;
CREATE TABLE replies (
  run TEXT NOT NULL, round INTEGER NOT NULL, site TEXT NOT NULL, order_digest TEXT NOT NULL,
  kind TEXT NOT NULL CHECK (kind IN ('result', 'refusal', 'late', 'invalid')), code TEXT,
  receipt TEXT, envelope BLOB, arrived TEXT NOT NULL, seconds REAL NOT NULL, asked TEXT NOT NULL,
  PRIMARY KEY (run, asked, round, site, kind)
) STRICT;
CREATE TABLE charges (
  run TEXT NOT NULL, round INTEGER NOT NULL, site TEXT NOT NULL, work TEXT NOT NULL,
  event TEXT NOT NULL, kind TEXT NOT NULL, PRIMARY KEY (run, site, work)
) STRICT;
CREATE TABLE releases (
  run TEXT NOT NULL, study TEXT NOT NULL, kind TEXT NOT NULL, number INTEGER NOT NULL,
  model TEXT NOT NULL, record TEXT NOT NULL, PRIMARY KEY (run, kind, number)
) STRICT;
CREATE TABLE models (
  name TEXT NOT NULL, version INTEGER NOT NULL, run TEXT NOT NULL, digest TEXT,
  registered TEXT NOT NULL, PRIMARY KEY (name, version), UNIQUE (run)
) STRICT;
"""

# `last_answered` asks for each site's newest reply; without it a round reads all replies once a site.
INDEX = "CREATE INDEX IF NOT EXISTS replies_of_site ON replies (site, kind)"
