"""`solblom node consent …` and `solblom node cohort …`: who may take part, and who was in which round."""

import itertools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from solblom_protocol.console import JSON_OPTION, command, out, print_json, quoted, say
from solblom_protocol.errors import EXIT_CHECK_SAID_NO
from solblom_verify.wording import counted

if TYPE_CHECKING:
    from solblom_client.cohorts.record import FrozenCohort
    from solblom_client.consent.impact import Impact
    from solblom_client.consent.join import ConsentState
    from solblom_client.policy import NodeConfig
    from solblom_client.state import VaultState

consent_app = typer.Typer(
    help="Who may take part, and withdrawals", no_args_is_help=True, add_completion=False
)
cohort_app = typer.Typer(help="Who was in which round", no_args_is_help=True, add_completion=False)
NODE_OPTION = typer.Option(Path("node.toml"), "--node", help="node.toml, or its folder")


@consent_app.command("show")
@command
def show(node: Path = NODE_OPTION, as_json: bool = JSON_OPTION) -> None:
    """Show the rule, the age of the source and how many it lets in or leaves out. Counts only; they stay here."""
    from solblom_client.cohorts.cohort import read_consent_now
    from solblom_client.policy import load_node_config
    from solblom_client.vault import utc_now

    config, now = load_node_config(node), utc_now()
    data = consent_report(config, read_consent_now(config, now=now), now=now)
    if as_json:
        print_json("solblom.node.consent.show/1", data)
        return
    console = out()
    console.print(f"Consent at {data['site']}: {data['rule']}, {data['kind']}", style="bold")
    console.print(f"  source: {data['source_age_hours']} of {data['max_age_hours']} hours old")
    console.print(
        f"  may take part: {data['granted']}   left out: {sum(data['excluded'].values())}"
    )
    for reason, count in data["excluded"].items():
        console.print(f"    {reason}: {count}")
    console.print(f"  without a record: {data['without_a_record']}")


def consent_report(config: "NodeConfig", state: "ConsentState", *, now: Any) -> dict[str, Any]:
    """Return what `consent show` prints: counts over the source, no ids."""
    table = config.consent
    made = state.made or now
    return {
        "site": config.node.site,
        "kind": table.kind,
        "rule": table.rule,
        "without_a_record": "included" if state.takes_in_the_absent else "excluded",
        "source_made": made.isoformat(timespec="seconds").replace("+00:00", "Z"),
        "source_age_hours": f"{max((now - made).total_seconds(), 0.0) / 3600:.1f}",
        "max_age_hours": f"{table.max_age_hours:g}",
        "granted": len(state.allowed),
        "excluded": state.counts(),
        "deceased": table.deceased,
        "min_age_years": table.min_age_years,
        "guardian_until_age": table.guardian_until_age,
    }


@consent_app.command("impact")
@command
def show_impact(
    patient: str = typer.Argument(
        ..., help="The patient's id; - reads it from stdin, past the shell's history"
    ),
    node: Path = NODE_OPTION,
    as_json: bool = JSON_OPTION,
) -> None:
    """Show which studies, rounds, receipts and models used a patient. The answer stays in the hospital."""
    from solblom_client.approvals.record import study_titles
    from solblom_client.consent.impact import CANNOT_BE_UNDONE, impact

    wanted = sys.stdin.readline() if patient == "-" else patient
    config, state = _open(node)
    try:
        found = impact(state, wanted)
    finally:
        state.close()
    if as_json:
        titles = study_titles(config)
        uses = [{**vars(use), "title": titles.get(use.study)} for use in found.uses]
        body = {"uses": uses, "models": list(found.models), "cannot_be_undone": CANNOT_BE_UNDONE}
        print_json("solblom.node.consent.impact/1", body)
        return
    _print_impact(found, study_titles(config))
    if found.uses:
        out().print(f"\n{CANNOT_BE_UNDONE['en']}\n\n{CANNOT_BE_UNDONE['no']}")


def _print_impact(found: "Impact", titles: dict[str, str]) -> None:
    console = out()
    if not found.uses:
        console.print("No round on record used this patient.")
    for study, uses in itertools.groupby(found.uses, key=lambda use: use.study):
        title = f"{quoted(titles[study])}  " if study in titles else ""
        console.print(f"{title}{study}", markup=False, soft_wrap=True)
        for use in uses:
            gone = f"receipt {use.receipt}" if use.receipt else "nothing left the hospital"
            told = f"  {use.run}  {use.kind} {use.round}  {use.recorded_at}  {gone}"
            console.print(told, markup=False, soft_wrap=True)
    if found.uses:
        console.print("Weights that these data helped to train, as far as this node knows:")
        for model in found.models or ("none known here",):
            console.print(f"  {model}")
        console.print(
            "The coordinator knows by the runs above which versions of models they became."
        )


@consent_app.command("notices")
@command
def notices(
    file: Path = typer.Option(..., "--out", help="New file for the coordinator"),
    node: Path = NODE_OPTION,
    as_json: bool = JSON_OPTION,
) -> None:
    """Write the sealed notice of runs that withdrawals touched: yes or no for each, in scheduled batches.

    Run it by a timer, never because somebody withdrew: when it is written must say nothing.
    """
    from solblom_client.consent.notices import notice_of
    from solblom_client.keys import read_node_keys
    from solblom_client.node import check_user
    from solblom_client.vault import utc_now
    from solblom_protocol.keys.key_files import write_new
    from solblom_protocol.keys.public_keys import PublicKeys
    from solblom_protocol.messages.message import timestamp

    config, state = _open(node)
    try:
        check_user(config)
        coordinator = PublicKeys.read(config.path(config.coordinator.key))
        with state.exclusive():
            keys = read_node_keys(config.state)
            notice = notice_of(config, keys, state, coordinator, now=utc_now())
    finally:
        state.close()
    write_new(file, notice.sealed, mode=0o644)
    next_at = timestamp(notice.next_at)
    if as_json:
        body = {"file": str(file), "again": notice.again, "runs": notice.runs, "next": next_at}
        print_json("solblom.node.consent.notices/1", {"site": config.node.site, **body})
    what = "the last notice again" if notice.again else "a notice"
    say(f"Wrote {what} about {counted(notice.runs, 'run')} to {file}. The next is due {next_at}.")


@consent_app.command("check")
@command
def check(node: Path = NODE_OPTION, as_json: bool = JSON_OPTION) -> None:
    """Hold a FHIR source against R4B's structure, for whoever sets up the export (needs fhir.resources)."""
    from solblom_client.consent.sources.fhir_structure import check_structure
    from solblom_client.consent.sources.source_file import read_source_file
    from solblom_client.policy import load_node_config
    from solblom_protocol.errors import ConfigurationError

    config = load_node_config(node)
    if config.consent.kind != "fhir":
        raise ConfigurationError("SB-103", 'consent.kind is not "fhir"')
    found = check_structure(read_source_file(config.path(config.consent.source)).data)
    if as_json:
        print_json("solblom.node.consent.check/1", vars(found))
    else:
        out().print(f"{counted(found.checked, 'resource')} checked")
        for place, count in found.faults.items():
            out().print(f"  {place}: {count}")
    if found.faults:
        raise typer.Exit(EXIT_CHECK_SAID_NO)


@cohort_app.command("list")
@command
def list_cohorts(node: Path = NODE_OPTION, as_json: bool = JSON_OPTION) -> None:
    """List the cohorts on record: study, run, round, receipt. No ids."""
    from solblom_client.cohorts.record import frozen_cohorts

    config, state = _open(node)
    try:
        records = frozen_cohorts(state)
    finally:
        state.close()
    rows = [_shown(record) for record in records]
    if as_json:
        print_json("solblom.node.cohort.list/1", {"site": config.node.site, "cohorts": rows})
        return
    for row in rows:
        out().print("  ".join(str(row[name] or "-") for name in row))


@cohort_app.command("rebuild")
@command
def rebuild_cohort(
    which: str = typer.Argument(..., help="Digest of the work or of its receipt, sha256:…"),
    ids: bool = typer.Option(False, "--ids", help="Name the patients; the answer stays here"),
    node: Path = NODE_OPTION,
    as_json: bool = JSON_OPTION,
) -> None:
    """Tell whether today's data give a round's cohort again, row by row. Exit 1: they do not."""
    from solblom_client.cohorts.rebuild import find_cohort, rebuild_today

    config, state = _open(node)
    try:
        record = find_cohort(state, which)
        found = rebuild_today(config, state, record)
    finally:
        state.close()
    body: dict[str, Any] = {**_shown(record), "exact": found.exact, "patients": found.patients}
    body |= {"missing": len(found.missing), "changed": len(found.changed)}
    if ids:
        body |= {"missing_ids": list(found.missing), "changed_ids": list(found.changed)}
    if as_json:
        print_json("solblom.node.cohort.rebuild/1", body)
    else:
        for name, value in body.items():
            out().print(f"{name}: {value}")
    if not found.exact:
        raise typer.Exit(EXIT_CHECK_SAID_NO)


def _shown(record: "FrozenCohort") -> dict[str, Any]:
    names = ("study", "run", "kind", "round", "work", "cohort", "receipt", "recorded_at")
    return {name: getattr(record, name) for name in names}


def _open(node: Path) -> "tuple[NodeConfig, VaultState]":
    from solblom_client.budget.ledger import STATE_FILE
    from solblom_client.policy import load_node_config
    from solblom_client.state import VaultState

    config = load_node_config(node)
    return config, VaultState(config.state / STATE_FILE)
