"""Looks at a node and fills in the list of report.py. Whatever cannot be read becomes a code, or nothing."""

import datetime as dt
import json
from collections import Counter
from typing import Any, cast, get_args

from solblom_client.budget.ledger import STATE_FILE, open_ledger
from solblom_client.checks.node_check import check_node
from solblom_client.log.decision_log import log_place, read_entries
from solblom_client.policy import NodeConfig
from solblom_client.state import VaultState
from solblom_client.support.machine import look_at_machine, look_at_packages, one_of
from solblom_client.support.places import look_at_files
from solblom_client.support.report import (
    MOST_DAYS,
    MOST_TIMES,
    CheckLight,
    Connector,
    Halves,
    LedgerTotals,
    Refusals,
    Settings,
    SupportReport,
    Task,
    ago_band,
    few_or_many,
    known_code,
    share_band,
)
from solblom_protocol.errors import REFUSAL_CODES, SolblomError
from solblom_protocol.messages.message import parse_timestamp, timestamp

DAYS = 30
_OUTSIDE = "SB-209"  # what all refusals share that depend on data (privacy.md rule 5)


def gather(config: NodeConfig | SolblomError, *, now: dt.datetime) -> SupportReport:
    """Return the report of a node, or of a machine whose node.toml cannot be used."""
    general: dict[str, Any] = {
        "schema": "solblom.node.support-bundle/1",
        "day": timestamp(now)[:10],
        "days": DAYS,
        "machine": look_at_machine(),
        "packages": look_at_packages(),
    }
    if isinstance(config, SolblomError):
        return SupportReport(
            **general,
            settings=None,
            settings_code=known_code(config.code),
            lights=(),
            halves=None,
            refusals=(),
            refusals_code=None,
            files=(),
            more_files=None,
            ledger=None,
        )
    refusals, refusals_code = _refusals(config, now)
    files, more = look_at_files(config)
    return SupportReport(
        **general,
        settings=_settings(config),
        settings_code=None,
        lights=tuple(
            CheckLight(name=found.name, light=found.light.value)
            for found in check_node(config, now=now)
        ),
        halves=_halves(config, now),
        refusals=refusals,
        refusals_code=refusals_code,
        files=files,
        more_files=more,
        ledger=_ledger(config),
    )


def _settings(config: NodeConfig) -> Settings:
    policy, coordinator, consent = config.policy, config.coordinator, config.consent
    tasks = {task if task in get_args(Task) else "another" for task in policy.tasks}
    connectors = [
        dataset.connector if dataset.connector in get_args(Connector) else "another"
        for dataset in config.dataset
    ]
    syslog = "none" if config.log.syslog is None else config.log.syslog.partition(":")[0]
    return Settings(
        tasks=cast(Any, tuple(sorted(tasks))),
        researchers=few_or_many(len(policy.study_signers)),
        epsilon_budget=policy.epsilon_budget,
        study_epsilon=policy.study_epsilon,
        delta=policy.delta,
        shared_noise=policy.shared_noise.allow,
        release=policy.release,
        hours=policy.hours is not None,
        allow_privacy_off=policy.allow_privacy_off,
        consent_kind=consent.kind,
        consent_rule=consent.rule,
        consent_max_age_hours=consent.max_age_hours,
        permit_required=config.permit.required,
        issuers=few_or_many(len(config.permit.issuers)),
        connectors=cast(Any, tuple(sorted(set(connectors)))),
        order_minutes=config.vault.order_minutes,
        memory_gib=config.vault.memory_gib,
        isolation=config.vault.isolation,
        anchor=config.node.anchor is not None,
        by_network=coordinator.url is not None,
        by_file=coordinator.inbox is not None and coordinator.outbox is not None,
        proxy=coordinator.proxy is not None,
        ca_file=coordinator.ca_file is not None,
        syslog=cast(Any, syslog),
        retention_days=min(config.log.retention_days, MOST_DAYS),
        simulation=config.node.simulation,
    )


def _halves(config: NodeConfig, now: dt.datetime) -> Halves:
    """Return what both halves say, in words that there are: what the link left may be the network's doing."""
    from solblom_client.service.start_cli import node_status

    found = node_status(config)
    link, vault = found["link"], found["vault"]
    contact = link["last_contact"]
    seconds = now.timestamp() - contact if isinstance(contact, int | float) else None
    seen = found["paused"] is not None
    return Halves(
        paused=found["paused"],
        link=one_of(Halves, "link", link["state"]) if seen else "cannot be looked at",
        link_code=known_code(link["code"]),
        last_contact=None if seconds is None else ago_band(seconds),
        orders=_counted(link["orders"]),
        replies=_counted(link["replies"]),
        vault=vault["state"],
        vault_code=known_code(vault.get("code")),
        cut_off_by=one_of(Halves, "cut_off_by", vault.get("isolation")),
    )


def _counted(value: object) -> Any:
    return few_or_many(value if isinstance(value, int) else 0)


def _refusals(config: NodeConfig, now: dt.datetime) -> tuple[tuple[Refusals, ...], str | None]:
    """Return how often each code was told to the coordinator in the last days; or why that cannot be said."""
    times: Counter[str] = Counter()
    since = now - dt.timedelta(days=DAYS)
    try:
        for entry in read_entries(log_place(config)):
            members = json.loads(entry)
            if parse_timestamp(str(members.get("time"))) < since:
                continue
            if members.get("event") == "refused":
                times[_outside(members.get("outside"))] += 1
            elif members.get("event") == "counted" and members.get("what") == "refused":
                # The log counts by the inside code, which stays inside.
                times[_outside(members.get("code"))] += max(1, int(members.get("times", 1)))
    except SolblomError as error:
        return (), known_code(error.code)
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return (), "SB-406"  # not as this node writes them
    counts = {code: min(times[code], MOST_TIMES) for code in sorted(times)}
    return tuple(Refusals(code=code, times=count) for code, count in counts.items()), None


def _outside(code: object) -> str:
    """Return the code that the coordinator was told: any that is not for outside is the one that data share."""
    return code if isinstance(code, str) and code in REFUSAL_CODES else _OUTSIDE


def _ledger(config: NodeConfig) -> LedgerTotals:
    from solblom_models.accountant import rdp_epsilon

    try:
        state = VaultState(config.state / STATE_FILE)
        try:
            ledger = open_ledger(config, state)
            ledger.check_anchor()
            entries = ledger.entries()
            policy = config.policy
            events = [entry.event for entry in entries]
            spent = rdp_epsilon(events, policy.delta, order=ledger.filter_order) if events else 0.0
        finally:
            state.close()
    except SolblomError as error:
        return LedgerTotals(spent=None, studies=None, charges=None, code=known_code(error.code))
    except OSError:
        return LedgerTotals(spent=None, studies=None, charges=None, code="SB-402")
    return LedgerTotals(
        spent=share_band(spent, policy.epsilon_budget),
        studies=few_or_many(len({entry.study for entry in entries})),
        charges=few_or_many(len(entries)),
        code=None,
    )
