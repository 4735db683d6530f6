"""What left this hospital: the page for its data protection officer, Norwegian and English.

From ledger, receipts and log of decisions only: no patient data is read, and none stands in them. Exact
counts of patients are not in any of the three.
"""

import json
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, Literal

from solblom_client.approvals.record import study_titles
from solblom_client.budget.ledger import Entry, Ledger, open_ledger, remaining
from solblom_client.log.decision_log import log_place, read_entries
from solblom_client.outbox.words import WORDS, refusal
from solblom_client.policy import NodeConfig
from solblom_client.state import VaultState
from solblom_models.accountant import format_epsilon, patient_epsilon, rdp_epsilon
from solblom_protocol.console import quoted
from solblom_protocol.errors import CODES
from solblom_verify.wording import format_delta

Language = Literal["no", "en"]
LEFT = frozenset({"released", "manual-release"})


@dataclass(frozen=True)
class Left:
    """One answer that left the vault, or, with `status` held, waits for a person."""

    kind: str
    round: int
    run: str
    time: str
    status: str
    size: int | None
    values: int | None
    epsilon: str
    to: str | None
    receipt: str | None
    by: str | None


@dataclass(frozen=True)
class StudyStatement:
    """What one study got; `epsilon` is for one patient over all of it, at the hospital's delta."""

    study: str
    title: str | None  # None: no approval of it is kept here
    epsilon: str
    left: tuple[Left, ...]
    refused: dict[str, int]  # outside code → how often


@dataclass(frozen=True)
class Statement:
    """The whole page."""

    site: str
    simulation: bool
    budget: str
    delta: str
    spent: str
    remaining: str
    studies: tuple[StudyStatement, ...]
    refused_unknown: dict[str, int]  # orders that could not be read, by code
    entries: int
    first: int
    newest: str | None

    def to_json(self) -> dict[str, Any]:
        """Return the page as JSON values."""
        return asdict(self)


def collect_statement(config: NodeConfig, state: VaultState) -> Statement:
    """Put the page together from what this node wrote down.

    Raises:
        IntegrityError: SB-402 or SB-406, ledger or log cannot be trusted.
    """
    ledger = open_ledger(config, state)
    ledger.check_anchor()
    log = [json.loads(entry) for entry in read_entries(log_place(config))]
    charges, policy = ledger.entries(), config.policy
    titles = study_titles(config)
    studies = sorted({e.study for e in charges} | {e["study"] for e in log if "study" in e})
    spent = rdp_epsilon([e.event for e in charges], policy.delta, order=ledger.filter_order)
    return Statement(
        site=config.node.site,
        simulation=config.node.simulation,
        budget=f"{policy.epsilon_budget:g}",
        delta=format_delta(policy.delta),
        spent=format_epsilon(spent),
        remaining=remaining(policy.epsilon_budget, spent),
        studies=tuple(
            _study(study, titles.get(study), ledger, log, policy.delta) for study in studies
        ),
        refused_unknown=_refused(e for e in log if e["event"] == "refused" and "study" not in e),
        entries=len(log),
        first=log[0]["seq"] if log else 0,
        newest=log[-1]["time"] if log else None,
    )


def _study(
    study: str, title: str | None, ledger: Ledger, log: list[dict[str, Any]], delta: float
) -> StudyStatement:
    mine = [entry for entry in log if entry.get("study") == study]
    charges = ledger.entries(study)
    epsilon = patient_epsilon([c.event for c in charges], delta) if charges else 0.0
    return StudyStatement(
        study=study,
        title=title,
        epsilon=format_epsilon(epsilon),
        left=_left(mine, charges, delta),
        refused=_refused(entry for entry in mine if entry["event"] == "refused"),
    )


def _left(mine: list[dict[str, Any]], charges: list[Entry], delta: float) -> tuple[Left, ...]:
    """Return answers in the order in which they were made; a person's decision takes the place of «held»."""
    found: dict[str, Left] = {}
    for entry in mine:
        if entry["event"] not in ("held", "released", "manual-release", "manual-reject"):
            continue
        before = found.get(entry["work"])
        found[entry["work"]] = Left(
            kind=entry["kind"],
            round=entry["round"],
            run=entry["run"],
            time=entry["time"],
            status=entry["event"],
            size=entry.get("size"),
            values=entry.get("values", before.values if before else None),
            epsilon=_epsilon(entry, charges, delta),
            to=entry.get("to"),
            receipt=entry.get("receipt"),
            by=entry.get("by"),
        )
    return tuple(found.values())


def _epsilon(entry: dict[str, Any], charges: list[Entry], delta: float) -> str:
    """Return what an answer's event costs alone."""
    of = (entry["kind"], entry["round"], entry["run"])
    events = [c.event for c in charges if (c.kind, c.round, c.run) == of]
    return format_epsilon(patient_epsilon(events[:1], delta)) if events else "-"


def _refused(entries: Any) -> dict[str, int]:
    return dict(sorted(Counter(entry["outside"] for entry in entries).items()))


def statement_lines(found: Statement, lang: str) -> list[str]:
    """Return the page as lines of text."""
    words = WORDS[lang]
    lines = [
        f"{words['title']}: {found.site}",
        *([words["simulation"]] if found.simulation else []),
    ]
    lines.append(
        f"{words['budget']} {found.budget}, {words['spent']} {found.spent}, {words['left']} "
        f"{found.remaining} (delta {found.delta})"
    )
    for study in found.studies:
        title = f" {quoted(study.title)}" if study.title else ""
        lines.append(f"{words['study']}{title} {study.study}: epsilon {study.epsilon}")
        for left in study.left:
            size = f"{left.size} {words['bytes']}, {left.values} {words['numbers']}"
            lines.append(
                f"  {left.time}  {words[left.kind]} {left.round}, {words[left.status]}: {size}, "
                f"epsilon {left.epsilon}, {words['to']} {(left.to or '-')[:16]}"
            )
        lines += [
            f"  {words['refused']} {code} × {times}: {refusal(code, lang)}"
            for code, times in study.refused.items()
        ]
    lines += [
        f"{words['unknown']} {code} × {times}" for code, times in found.refused_unknown.items()
    ]
    if found.first:
        lines.append(words["pruned"].format(first=found.first))
    return [*lines, words["never"], words["means"]]


def statement_html(found: Statement, lang: str) -> str:
    """Return one page that loads nothing from anywhere, to read or to print."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("solblom_client.outbox", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("statement.html")
    titles = {code: refusal(code, lang) for code in CODES}
    return template.render(page=found, words=WORDS[lang], lang=_TAGS[lang], titles=titles)


_TAGS = {"no": "nb", "en": "en"}
