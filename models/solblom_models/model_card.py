"""The model card, README.md of an artefact: generated from the manifest, Hugging Face front matter."""

from typing import Any

from solblom_models.card_text import TO_FILL, bullets, plain, quoted, table, to_fill
from solblom_models.ranking_card import ranking_release, ranking_table
from solblom_models.slide_card import area, slide_table
from solblom_models.technical_card import later_sections, technical_sections
from solblom_protocol.studies.study import StudyDocument
from solblom_verify.wording import counted

BANNER = (
    "> **Simulation.** One machine played all hospitals, on public data, with keys that follow from a\n"
    "> public seed. Nothing here protects anybody.\n"
)


EVIDENCE = (
    "Made from `manifest.json`, the study and the evaluation report. It is evidence for a technical file, and **no "
    f"claim of conformity** with anything. {TO_FILL} marks what a run cannot know.\n"
)


def render_card(
    manifest: dict[str, Any],
    evaluation: dict[str, Any] | None,
    artefact: str,
    document: StudyDocument,
) -> str:
    """Return the card as Markdown.

    Args:
        manifest: of the artefact.
        evaluation: its report, or None.
        artefact: digest of the manifest.
        document: the study that the manifest names by its digest.
    """
    sections = {
        "Intended use": _intended_use(manifest, document),
        **technical_sections(manifest, document),
        "Training": _training(manifest),
        "Privacy": _privacy(manifest),
        "Evaluation": _evaluation(evaluation),
        "Limitations": bullets(plain(line) for line in manifest["limitations"]),
        **later_sections(manifest, document),
        "Check it": "```\nsolblom-verify . --trust trust.json\n```\n\n"
        "The trust file comes from the steward, not from this folder.\n",
    }
    parts = [
        _front_matter(manifest),
        f"# {plain(manifest['title'])}\n",
        BANNER if manifest["simulation"] else "",
        f"`{manifest['name']}@{manifest['version']}` · `{artefact}`\n",
        EVIDENCE,
        *(f"## {heading}\n\n{text}" for heading, text in sections.items()),
    ]
    return "\n".join(part for part in parts if part)


def _front_matter(manifest: dict[str, Any]) -> str:
    """Return the metadata that Hugging Face reads: YAML, its texts quoted as JSON, which YAML reads alike."""
    return (
        "---\nlibrary_name: solblom\nlicense: other\nlicense_name: not-stated-by-the-study\n"
        f"model_name: {quoted(manifest['title'])}\n"
        f"tags: [federated-learning, differential-privacy, {manifest['task']}]\n---\n"
    )


def _intended_use(manifest: dict[str, Any], document: StudyDocument) -> str:
    terms = document.study.study.duo
    return (
        f"{plain(manifest['purpose'])}\n\n"
        f"{manifest['intended_use']}. {manifest['not_for']}.\n\n"
        f"Legal basis: {plain(', '.join(manifest['legal_basis']))}. "
        f"Data use terms: {', '.join(terms) or 'none named'}. The study ends on {document.study.study.ends}.\n\n"
        f"{to_fill('medical purpose, users, patients and conditions, claims, and what it must not be used for')}\n"
    )


def _training(manifest: dict[str, Any]) -> str:
    rounds = manifest["training"]["rounds"]
    rows = "".join(
        f"| {site} | {sum(site in r['updates'] for r in rounds)} of {len(rounds)} |\n"
        for site in sorted(manifest["sites"])
    )
    encoder = manifest["model"].get("encoder")
    made = "" if encoder is None else _encoder(encoder)
    return made + (
        f"Run `{manifest['training']['run']}`, study `{manifest['training']['study']}`.\n\n"
        f"| hospital | rounds |\n|---|---|\n{rows}"
    )


def _encoder(encoder: dict[str, Any]) -> str:
    pinned = "" if encoder["sha256"] is None else f", `sha256:{encoder['sha256']}`"
    proof = ", made outside Solblom: nothing proves which" if encoder["kind"] == "external" else ""
    return (
        f"Features of tiles: {plain(encoder['name'])} ({encoder['kind']}){pinned}{proof}. "
        f"Licence of the encoder: {plain(encoder['licence'])}.\n\n"
    )


def _privacy(manifest: dict[str, Any]) -> str:
    privacy = manifest["privacy"]
    head, keys = ["hospital", "epsilon", "delta"], ["epsilon", "delta"]
    if (
        privacy["unit"] == "family"
    ):  # what a patient is promised whose family stays is another figure
        head, keys = [*head, "epsilon of one patient"], [*keys, "epsilon_of_one_patient"]
    rows = "".join(
        f"| {' | '.join((site, *(spent[key] for key in keys)))} |\n"
        for site, spent in sorted(privacy["sites"].items())
    )
    return (
        f"Unit: one {privacy['unit']}. `privacy/statement.json` says the rest.\n\n"
        f"| {' | '.join(head)} |\n|{'---|' * len(head)}\n{rows}"
    )


def _evaluation(evaluation: dict[str, Any] | None) -> str:
    released = "".join(_released(record) for record in (evaluation or {}).get("released", []))
    if evaluation is None or "sites" not in evaluation:
        return released or "No metric left a hospital in this run.\n"
    left_out = "".join(
        f"\nLeft out: {entry['site']}, {entry['reason']}.\n"
        for entry in evaluation.get("left_out", [])
    )
    if "reason" in evaluation:
        return f"Not evaluated: {evaluation['reason']}.\n{left_out}\n{released}"
    if evaluation.get("measure") == "ranking":
        return f"{ranking_table(evaluation)}\n{left_out}\n{released}"
    if evaluation.get("measure") in ("slides", "tiles"):
        return f"{slide_table(evaluation)}\n{left_out}\n{released}"
    rows = "".join(_evaluation_row(site) for site in evaluation["sites"])
    return (
        "Exact AUROC with 95 % intervals on each hospital's test patients, possible because one "
        "machine held all data.\n\n"
        f"| hospital | local only | federated | pooled |\n|---|---|---|---|\n{rows}{_subgroups(evaluation)}"
        f"{left_out}\n{released}"
    )


def _subgroups(evaluation: dict[str, Any]) -> str:
    """Return the federated model's figures by group of a simulation on tables."""
    rows = [
        (
            plain(variable),
            plain(cell),
            str(group["patients"]),
            area(group) if "auroc" in group else "too few",
        )
        for variable, cells in evaluation.get("subgroups", {}).items()
        for cell, group in cells.items()
    ]
    written = table(("federated, by", "group", "test patients", "AUROC [95 %]"), rows)
    return f"\n{written}" if written else ""


def _released(record: dict[str, Any]) -> str:
    """Return what a release says, with the words that belong to it."""
    if record["status"] != "released":
        return f"{record['kind']} {record['number']} was not released: {record['reason']}\n"
    sites = len(record["sites"])
    if record["kind"] == "describe":
        return _table_one(record["table"], sites, record["noise_deviation"])
    metrics = record["metrics"]
    if metrics["reason"] is not None:
        return f"Released by {counted(sites, 'hospital')} with noise; not shown: {metrics['reason']}.\n"
    shown = ranking_release(metrics) or "".join(
        f"| {name} | {metrics[name]:.3f} [{metrics[f'{name}_interval'][0]:.3f}, "
        f"{metrics[f'{name}_interval'][1]:.3f}] |\n"
        for name in ("auroc", "sensitivity", "specificity", "prevalence")
        if name in metrics
    )
    outside = "".join(
        f"\nOutside epsilon, as {site} allows: AUROC {value} [{low}, {high}]\n"
        for site, (value, low, high) in record["named"].items()
    )
    return (
        f"Released by {counted(sites, 'hospital')} together, from counts with noise of deviation "
        f"{record['noise_deviation']}; intervals cover patients and noise.\n\n"
        f"| all test patients | value [95 % interval] |\n|---|---|\n{shown}{outside}"
    )


def _table_one(table: list[dict[str, Any]], sites: int, deviation: str) -> str:
    rows = "".join(
        f"| {row['variable']} | {cell} | {count} |\n"
        for row in table
        for cell, count in zip(row["cells"], row["counts"], strict=True)
    )
    return (
        f"\nTable 1: patients of {counted(sites, 'hospital')} together, each count with noise of deviation "
        f"{deviation}, so that small counts may be below zero.\n\n"
        f"| variable | cell | patients |\n|---|---|---|\n{rows}"
    )


def _evaluation_row(site: dict[str, Any]) -> str:
    cells = " | ".join(area(site["metrics"][kind]) for kind in ("local", "federated", "pooled"))
    return f"| {site['site']} | {cells} |\n"
