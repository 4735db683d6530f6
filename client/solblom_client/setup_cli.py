"""`solblom node init` and `node join`: a hospital sets up its node and answers an invitation."""

import datetime as dt
from pathlib import Path

import typer

from solblom_protocol.console import JSON_OPTION, command, print_json, read_given, say

app = typer.Typer(help="Hospital: set up a node", no_args_is_help=True, add_completion=False)

CA_FILE = "coordinator-ca.pem"
URL_PLACE = '# url = "https://…"'
NODE_TOML = """\
# This hospital's node. What stands here has the last word: no order and no study can overrule it.

[node]
site = "{site}"
state = "state"                      # keys, ledger, log: for the node's user only, in no ordinary backup
anchor = "anchor/ledger-anchor.json" # better on another disk: shows that an old ledger was restored

[coordinator]
key = "coordinator.pub"              # written by `solblom node join`; orders of any other key are refused
# url = "https://…"                  # written by `solblom node join` where the invitation names an address
ca_file = "coordinator-ca.pem"       # likewise: the only authority that may vouch for that address
# proxy = "http://proxy:3128"        # where the way out goes through one
inbox = "inbox"                      # rounds by file: orders arrive here …
outbox = "outbox"                    # … and replies leave from here
# carrier_before = ["./fetch.sh"]    # your own command that fetches files, run before each pass
# carrier_after = ["./deliver.sh"]   # and the one that delivers them; see docs/how-to/rounds-by-file.md

[vault]                              # the process that sees patients; it has no network
# socket = "vault/vault.sock"        # where the link hands it sealed orders; at most 107 bytes, path and all
# order_minutes = 60                 # an order at work for longer is hung, and the process is started anew
# memory_gib = 8
# isolation = "required"             # "best-effort" lets it run where it cannot be cut off from the network

[policy]
tasks = ["tabular-classification"]
study_signers = ["researcher.pub"]   # only studies signed by these people can be approved
epsilon_budget = 8.0                 # lifetime, over all studies and all data of this hospital
study_epsilon = 3.0                  # per study
delta = 1e-5
min_patients = 20
allow_privacy_off = false
# release = "manual"                 # nothing leaves before a person has run `solblom node outbox release`
# hours = "22:00-06:00"              # orders are worked on between these times only; time_zone = "Europe/Oslo"
named_releases = []                  # what may leave without noise: nothing
# allow: studies in which each hospital adds a share of the noise, and only the sum of all is opened
shared_noise = {{ allow = false, min_honest_nodes = 3, alone_epsilon = 10.0 }}

[consent]
source = "consent.csv"               # patient_id,status,valid_until; status: granted or withdrawn
# kind = "fhir"                      # an HL7 FHIR R4B bundle in JSON; then also purpose = ["HRESCH"]
rule = "opt-in"                      # nobody without a record takes part
max_age_hours = 24                   # an older file stops the node

# [permit]                           # beside your own approval: docs/concepts/permits.md
# required = true                    # nothing is approved or run without a permit
# issuers = ["dac.pub"]              # whose permits count: compare fingerprints by phone
# revocations = "revocations.jws"    # the issuers' newest lists; an old one stops the study

# [log]
# syslog = "unix:/dev/log"           # where `solblom node log forward` sends every decision; or "udp:host:514"
# retention_days = 400

[[dataset]]
name = "patients"
connector = "table"
path = "{data}"                      # read-only
patient = "{patient}"
# connector = "slides"               # whole-slide images; then path is their index: patient_id,file,label
# features = "features"              # … and here is what `solblom node features` makes of them
# units = {{ glucose = "mg/dL" }}      # a column's unit, where the contract accepts it beside its own
# maps = {{ diagnosis = "icd10_to_icd11.csv" }} # from your codes to the contract's: columns from, to
"""


@app.command("init")
@command
def init(
    folder: Path = typer.Argument(..., help="New folder for the node"),
    site: str = typer.Option(..., "--site", help="The hospital's name in the federation"),
    data: str = typer.Option(
        "patients.csv", "--data", help="The table: its path from here, or from the folder"
    ),
    patient: str = typer.Option("patient_id", "--patient", help="The column with the patient's id"),
    as_json: bool = JSON_OPTION,
) -> None:
    """Make a node: its settings to be read and changed, its keys, and an empty privacy ledger."""
    from solblom_client.link.transport_key import create_transport_key
    from solblom_client.node import create_node
    from solblom_client.policy import load_node_config
    from solblom_protocol.keys.key_files import fingerprint, write_new

    data, is_there = _place_of(data, folder)
    text = NODE_TOML.format(site=site, data=_toml(data), patient=_toml(patient))
    write_new(folder / "node.toml", text.encode(), mode=0o644)
    for name in ("inbox", "outbox"):
        (folder / name).mkdir(exist_ok=True)
    config = load_node_config(folder)
    public = create_node(config)
    create_transport_key(config)
    shown = fingerprint(public.signing)
    if as_json:
        print_json(
            "solblom.node.init/1",
            {"node": str(folder / "node.toml"), "site": site, "fingerprint": shown},
        )
    say(f"Made {folder / 'node.toml'}. Read it and change what does not fit your hospital.")
    if not is_there:
        say(f"LOOK  {data} is not there yet: put it there, or correct path in node.toml.")
    say("It expects consent.csv and researcher.pub beside it before a study can be approved.")
    say(f"Fingerprint, to be read to the coordinator over the phone: {shown}")
    say(f"Next: solblom node join INVITE --node {folder}")


def _place_of(data: str, folder: Path) -> tuple[str, bool]:
    """Return a table's path for node.toml, whose paths begin at its folder, and whether the table is there.

    Whoever types a path means it from where they stand: it becomes a whole one if a table stands there.
    """
    if (folder / data).exists():  # a whole path, too
        return data, True
    here = Path(data)
    return (str(here.resolve()), True) if here.exists() else (data, False)


@app.command("join")
@command
def join(
    invite: Path = typer.Argument(..., help="The invitation (….invite.json)"),
    node: Path = typer.Option(Path("node.toml"), "--node", help="node.toml, or its folder"),
    into: Path | None = typer.Option(None, "--out", help="File (default: SITE.join.json)"),
    as_json: bool = JSON_OPTION,
) -> None:
    """Pin the inviting coordinator and write the answer that it needs; no private key leaves."""
    from solblom_client.keys import read_node_keys
    from solblom_client.link.transport_key import public_transport_pem, read_transport_key
    from solblom_client.policy import load_node_config
    from solblom_protocol.keys.key_files import fingerprint, write_new
    from solblom_protocol.messages.enrolment import open_invite, write_answer

    config, now = load_node_config(node), dt.datetime.now(dt.UTC)
    opened = open_invite(read_given(invite), now=now)
    keys = read_node_keys(config.state)
    public = keys.public(config.node.site)
    transport_key = public_transport_pem(read_transport_key(config))
    answer = write_answer(opened, public, keys.signing, transport_key=transport_key, now=now)
    coordinator, url = opened.invite.keys, opened.invite.url
    write_new(config.path(config.coordinator.key), coordinator.to_bytes(), mode=0o644)
    if url is not None and opened.invite.certificates is not None:
        certificates = config.path(config.coordinator.ca_file or CA_FILE)
        write_new(certificates, opened.invite.certificates.encode(), mode=0o644)
        _write_url(node / "node.toml" if node.is_dir() else node, url)
    target = into or Path(f"{config.node.site}.join.json")
    write_new(target, answer, mode=0o644)
    theirs, ours = fingerprint(coordinator.signing), fingerprint(public.signing)
    if as_json:
        body = {"answer": str(target), "coordinator_fingerprint": theirs, "fingerprint": ours}
        body |= {"url": url or ""}
        print_json("solblom.node.join/1", {"site": config.node.site, **body})
    say(
        f"Wrote {target}: send it back. The coordinator's key is pinned in {config.coordinator.key}."
    )
    say("Now call the coordinator on a number that you know, and compare both:")
    say(f"  they must read to you   {theirs}")
    say(f"  you read to them        {ours}")
    say(f"If theirs differs: delete {config.coordinator.key} and do not go on.")
    if url is not None:
        say(f"When they have enrolled you: solblom node start --node {node}   ({url})")


def _write_url(file: Path, url: str) -> None:
    """Put the address into node.toml where its template has room; say so where a person has changed that."""
    text = file.read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True)
    places = [n for n, line in enumerate(lines) if line.startswith(URL_PLACE)]
    if len(places) != 1:
        say(f'Add this line to [coordinator] in {file}:  url = "{url}"')
        return
    lines[places[0]] = f'url = "{url}"\n'
    file.write_text("".join(lines), encoding="utf-8")


def _toml(text: str) -> str:
    """Return text as the inside of a TOML string."""
    return text.replace("\\", "\\\\").replace('"', '\\"')
