"""Is this node fit to run: files, keys, ledger, clock, disk, consent, data sets, isolation. For hospital IT."""

import contextlib
import datetime as dt
import json
import os
import pwd
import shutil
import stat
import subprocess
import sys

from solblom_client.approvals.permits import pinned_issuers
from solblom_client.budget.ledger import STATE_FILE, open_ledger
from solblom_client.checks.finding import Checklist, Finding, Light, Seen
from solblom_client.clock import latest_time
from solblom_client.cohorts.cohort import read_consent_now
from solblom_client.keys import read_node_keys
from solblom_client.link.process import read_status
from solblom_client.log.check import verify_log
from solblom_client.log.decision_log import log_place
from solblom_client.policy import NodeConfig
from solblom_client.service.isolation import writable_data
from solblom_client.state import VaultState
from solblom_protocol.errors import ConfigurationError, IntegrityError, RefusedError
from solblom_protocol.keys.key_files import fingerprint
from solblom_protocol.keys.public_keys import PublicKeys
from solblom_protocol.messages.mailbox import list_mail, read_mail
from solblom_protocol.messages.message import CLOCK_TOLERANCE, parse_timestamp, timestamp
from solblom_protocol.messages.order import read_order
from solblom_verify.wording import counted

NODE_CHECKS = (
    "state folder",
    "keys",
    "ledger",
    "decisions",
    "clock",
    "disk",
    "consent source",
    "coordinator's key",
    "researchers' keys",
    "permit issuers",
    "data sets",
    "isolation",
)
GIB = 2**30
LEAST_FREE_BYTES = GIB // 4  # stop below: a reservation that cannot be synced stops the node anyway
LOW_FREE_BYTES = 4 * GIB
NEWEST_ORDERS = 3
_PROBE = (
    "import json, sys; from solblom_client.service.isolation import isolate; "
    "found = isolate(memory_bytes=int(sys.argv[1])); "
    "print(json.dumps([found.level, list(found.notes)]))"
)


def check_node(config: NodeConfig, *, now: dt.datetime) -> tuple[Finding, ...]:
    """Run every check of the node itself; reads no patient row."""
    checks = Checklist(NODE_CHECKS)
    checks.check("state folder", lambda: _state_folder(config))
    checks.check("keys", lambda: _keys(config))
    checks.check("ledger", lambda: _ledger(config))
    checks.check("decisions", lambda: _decisions(config))
    checks.check("clock", lambda: _clock(config, now))
    checks.check("disk", lambda: _disk(config))
    checks.check("consent source", lambda: _consent(config, now))
    checks.check("coordinator's key", lambda: _coordinator(config))
    checks.check("researchers' keys", lambda: _researchers(config))
    checks.check("permit issuers", lambda: _issuers(config))
    checks.check("data sets", lambda: _datasets(config))
    checks.check("isolation", lambda: _isolation(config))
    return checks.findings()


def _state_folder(config: NodeConfig) -> Seen:
    state = config.state
    if not state.is_dir():
        return Light.STOP, f"{state} is not there", "Run solblom node init, or correct node.state"
    info = state.stat()
    mode, me = stat.S_IMODE(info.st_mode), os.geteuid()
    if info.st_uid != me:
        owner = _user(info.st_uid)
        return (
            Light.STOP,
            f"{state} belongs to {owner}; this is {_user(me)}",
            f"Run the check as the vault's user: sudo -u {owner} …",
        )
    if mode & 0o077:
        todo = f"chmod 700 {state}"
        return Light.STOP, f"{state} has mode {mode:04o}: others can look inside", todo
    if me == 0:
        return (
            Light.ATTENTION,
            f"{state} belongs to root",
            "Give the vault a user of its own: solblom node unit systemd",
        )
    return Light.OK, f"{state}, mode {mode:04o}, of {_user(me)}"


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"#{number}"


def _keys(config: NodeConfig) -> Seen:
    folder = config.state / "keys"
    keys = read_node_keys(config.state)  # SB-109 where one is missing or unreadable
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & 0o022:
        return Light.STOP, f"{folder} has mode {mode:04o}", f"chmod 700 {folder}"
    secrets = [*folder.glob("*.key"), *(config.state / "approvals").glob("*/*.root")]
    open_ones = [path for path in secrets if stat.S_IMODE(path.stat().st_mode) & 0o077]
    if open_ones:
        return (
            Light.STOP,
            f"{counted(len(open_ones), 'secret file')} can be read by others",
            f"chmod 600 {open_ones[0]}",
            tuple(str(path) for path in open_ones),
        )
    links = [path for path in secrets if path.is_symlink()]
    if links:
        return Light.STOP, f"{links[0].name} is a link", "Put the key itself in its place"
    own = fingerprint(keys.signing.public_key())
    return Light.OK, f"{counted(len(secrets), 'secret file')}, mode 0600; this node is {own}"


def _ledger(config: NodeConfig) -> Seen:
    state = VaultState(config.state / STATE_FILE)
    try:
        head = open_ledger(config, state).check_anchor()
    finally:
        state.close()
    entries = counted(head.count, "entry", "entries")
    if config.node.anchor is None:
        return (
            Light.ATTENTION,
            f"{entries}; no anchor, so a ledger restored from a backup is not noticed here",
            "Set node.anchor to a file on another disk",
        )
    anchor = config.path(config.node.anchor).resolve()
    if anchor.is_relative_to(config.state.resolve()):
        return (
            Light.ATTENTION,
            f"{entries}; the anchor lies in the state folder and would be restored with it",
            "Move node.anchor out of node.state, best to another disk",
        )
    return Light.OK, f"{entries}; the chain holds and the anchor agrees"


def _decisions(config: NodeConfig) -> Seen:
    public = read_node_keys(config.state).signing.public_key()
    report = verify_log(log_place(config), public)
    if report.problems:
        todo = "Find out who wrote to it; see solblom node log verify"
        return Light.STOP, "the log of decisions does not hold", todo, tuple(report.problems)
    return Light.OK, f"{counted(report.size, 'entry', 'entries')}; the log of decisions holds"


def _clock(config: NodeConfig, now: dt.datetime) -> Seen:
    set_it = "Set this machine's clock (NTP)"
    latest = None
    with contextlib.suppress(IntegrityError):  # the ledger's own check says so
        state = VaultState(config.state / STATE_FILE)
        latest = latest_time(state)
        state.close()
    if latest is not None and now < latest - CLOCK_TOLERANCE:
        behind = latest - now
        return Light.STOP, f"the clock is {_span(behind)} behind the newest moment seen", set_it
    issued = _newest_issued(config)
    if issued is not None and issued > now + CLOCK_TOLERANCE:
        ahead = issued - now
        return Light.STOP, f"an order in the inbox was signed {_span(ahead)} from now", set_it
    if read_status(config).get("code") == "SB-624":
        return Light.STOP, "the coordinator says that the clocks differ (SB-624)", set_it
    known = [moment for moment in (latest, issued) if moment is not None]
    if not known:
        return Light.OK, f"{timestamp(now)}; no order seen yet to compare it with"
    return Light.OK, f"{timestamp(now)}; the newest signed time known is {timestamp(max(known))}"


def _newest_issued(config: NodeConfig) -> dt.datetime | None:
    """Return the latest time that the pinned coordinator signed in an order of the inbox, where one lies there."""
    if config.coordinator.inbox is None:
        return None
    found = []
    with contextlib.suppress(OSError, ConfigurationError):
        coordinator = PublicKeys.read(config.path(config.coordinator.key)).signing
        keys = read_node_keys(config.state)
        for file in list_mail(config.path(config.coordinator.inbox)).mail[-NEWEST_ORDERS:]:
            sealed = read_mail(file)
            if sealed is not None and file.answers is None:
                with contextlib.suppress(RefusedError):
                    order = read_order(sealed, key=keys.sealing, coordinator=coordinator)
                    found.append(parse_timestamp(order.header.issued))
    return max(found, default=None)


def _span(length: dt.timedelta) -> str:
    minutes = length.total_seconds() / 60
    return f"{minutes:.0f} minutes" if minutes < 180 else f"{minutes / 60:.0f} hours"


def _disk(config: NodeConfig) -> Seen:
    free = shutil.disk_usage(config.state).free
    text = f"{free / GIB:.1f} GiB free where the state folder lies"
    if free < LEAST_FREE_BYTES:
        return (
            Light.STOP,
            text,
            "Make room: without it no charge can be written and no order answered",
        )
    if free < LOW_FREE_BYTES:
        return Light.ATTENTION, text, "Make room: a reply is kept as large as its model"
    return Light.OK, text


def _consent(config: NodeConfig, now: dt.datetime) -> Seen:
    source = config.path(config.consent.source)
    if not source.exists():
        todo = "Put it there (docs/concepts/consent.md), or correct consent.source in node.toml"
        return Light.STOP, f"{source} is not there", todo
    read_consent_now(config, now=now)  # SB-308 unreadable or stale
    rule = {"opt-in": "no record: excluded", "opt-out": "no record: included"}[config.consent.rule]
    return Light.OK, f"readable and not older than {config.consent.max_age_hours:g} hours; {rule}"


def _coordinator(config: NodeConfig) -> Seen:
    path = config.path(config.coordinator.key)
    if not path.is_file():
        todo = "Run solblom node join INVITE, and compare the fingerprint by phone"
        return Light.STOP, f"{config.coordinator.key} is not there: no order can be read", todo
    pinned = PublicKeys.read(path)
    shown = f"{pinned.name}: {fingerprint(pinned.signing)}"
    return Light.OK, f"{shown}; compare it with the operator's by phone"


def _researchers(config: NodeConfig) -> Seen:
    files = {name: config.path(name) for name in config.policy.study_signers}
    there = {name: PublicKeys.read(path) for name, path in files.items() if path.is_file()}
    lines = tuple(f"{key.name}: {fingerprint(key.signing)}" for key in there.values())
    absent = sorted(set(files) - set(there))
    if absent:
        text = f"{', '.join(absent)} not there: no study of theirs can be approved"
        return Light.ATTENTION, text, "Get the public-keys file from the researcher", lines
    return Light.OK, counted(len(lines), "researcher"), "", lines


def _issuers(config: NodeConfig) -> Seen:
    issuers = pinned_issuers(config).values()
    if not issuers:
        return Light.OK, "none pinned: this hospital's own approval is enough"
    lines = tuple(f"{issuer.name}: {fingerprint(issuer.key)}" for issuer in issuers)
    text = counted(len(lines), "issuer")
    if not config.path(config.permit.revocations).is_file():
        todo = "Fetch the issuers' lists: without them no study with a permit runs (SB-218)"
        return Light.ATTENTION, f"{text}; no list of revoked permits", todo, lines
    return Light.OK, f"{text}; compare each with its owner by phone", "", lines


def _datasets(config: NodeConfig) -> Seen:
    closed, paths = [], {}
    for dataset in config.dataset:
        named = [
            config.path(dataset.source),
            *(config.path(file) for file in dataset.maps.values()),
        ]
        paths[dataset.name] = named[0]
        for path in named:
            rights = os.R_OK | (os.X_OK if path.is_dir() else 0)
            if not os.access(path, rights):
                closed.append(f"{dataset.name}: {path} cannot be read")
    if closed:
        todo = "Correct the path in node.toml, or let the vault's user read it"
        return Light.STOP, closed[0], todo, tuple(closed[1:])
    writable = writable_data(paths)
    if writable:
        todo = "Mount the data read-only for the vault's user"
        return Light.ATTENTION, writable[0], todo, tuple(writable[1:])
    return Light.OK, f"{counted(len(paths), 'data set')}, readable and not writable"


def _isolation(config: NodeConfig) -> Seen:
    """Start a process as the vault would be, and let it measure itself."""
    memory = str(int(config.vault.memory_gib * GIB))
    try:
        done = subprocess.run(  # noqa: S603 - our own program
            [sys.executable, "-P", "-c", _PROBE, memory],
            capture_output=True,
            timeout=120,
            check=False,
            env=os.environ,
        )
        level, notes = json.loads(done.stdout)
    except (ValueError, subprocess.TimeoutExpired):
        return Light.STOP, "it could not be measured", "Run solblom node vault by hand and read why"
    shown = tuple(str(note) for note in notes)
    if level == "none":
        light = Light.STOP if config.vault.isolation == "required" else Light.ATTENTION
        todo = (
            "Run it under systemd (solblom node unit systemd), or in a container without a network"
        )
        return light, "the vault would not be cut off from the network", todo, shown
    if "+" not in level:
        todo = "Run it under systemd: solblom node unit systemd"
        return Light.ATTENTION, f"the vault would be cut off by one wall: {level}", todo, shown
    return Light.OK, f"the vault would be cut off by {level}", "", shown
