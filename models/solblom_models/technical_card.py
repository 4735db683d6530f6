"""Sections of a model card from which a technical file can be filled (AI Act, Annex IV; MDR, Annexes II and III).

Evidence, and no claim of conformity: what a run knows is said, what only a provider can know is marked, and nothing is
made up. Which section is meant for which point of the annexes is our reading, not a lawyer's.
"""

from typing import Any

from solblom_models.aggregation.robust import rule_in_words
from solblom_models.card_text import bullets, code, plain, table, to_fill
from solblom_protocol.contracts.bags import BagContract
from solblom_protocol.contracts.phenopackets import PhenotypeContract
from solblom_protocol.contracts.table import Contract, NumberVariable
from solblom_protocol.studies.checks import ROBUST
from solblom_protocol.studies.study import StudyDocument
from solblom_verify.wording import counted

MEANS = {
    "median": "Each weight moves by the median of the hospitals' updates: fewer than half of the hospitals cannot move "
    "it beyond what the others sent.",
    "trimmed-mean": "Each weight moves by the mean of the hospitals' updates without the smallest and the largest: as "
    "many hospitals as are left out at one end cannot move it beyond what the others sent.",
    "krum": "In each round the model moves by one hospital's update, the one nearest to the others; the others' are "
    "not used, and its noise is not averaged.",
}
"""What a rule that compares hospitals does, for readers of a card."""
MOST_VARIABLES = 60  # of a table in a card; the contract has them all
SPECIFICATIONS = (
    "RFC 8785 (canonical JSON), RFC 8032 (Ed25519), DSSE and in-toto Statement v1 (signatures)",
    "RFC 6962 and C2SP signed note, checkpoint and cosignature (the coordinator's log)",
    "RFC 7515 (permits), GA4GH visa and DUO; HPO and Phenopackets for rare diseases",
    "RO-Crate 1.1 with Process Run Crate 0.5, CycloneDX 1.6, safetensors, ONNX operator set 17",
)
PLACES = (
    ("AI Act IV 1, general description", "Intended use; Provider and version; Interaction"),
    ("AI Act IV 2 (a)-(c), development", "How it was made; `code/sbom.cdx.json`"),
    ("AI Act IV 2 (d), data", "Data; `model/preprocess.json`, `consent/summary.json`, `permits/`"),
    ("AI Act IV 2 (e), 3, human oversight", "Human oversight"),
    ("AI Act IV 2 (f), 6, changes", "Changes; Provider and version"),
    ("AI Act IV 2 (g), 4, validation and metrics", "Evaluation; `evaluation/report.json`"),
    ("AI Act IV 2 (h), cybersecurity", "Cybersecurity"),
    ("AI Act IV 3, capabilities and limits", "Limitations; Known biases; Privacy"),
    ("AI Act IV 5, risk management", "Risk management"),
    ("AI Act IV 7 and 8, standards and declaration", "Standards"),
    ("AI Act IV 9 and Article 12, monitoring and logs", "Monitoring and logs"),
    ("MDR II, intended purpose and claims", "Intended use"),
    ("MDR II, software version and SOUP (IEC 62304)", "Provider and version; `code/lock.txt`"),
    ("MDR II, IEC 82304, ISO 14971, clinical evaluation, UDI-DI", "For a medical device"),
    ("MDR III, surveillance after placing on the market", "Monitoring and logs"),
)


def technical_sections(manifest: dict[str, Any], document: StudyDocument) -> dict[str, str]:
    """Return the sections by their headings, in order; evaluation, privacy and limitations are the card's own."""
    return {
        "Provider and version": _provider(manifest),
        "Interaction with other software and hardware": _interaction(manifest, document),
        "How it was made": _made(manifest, document),
        "Data": _data(manifest, document),
    }


def later_sections(manifest: dict[str, Any], document: StudyDocument) -> dict[str, str]:
    """Return the sections that come after the evaluation, by their headings."""
    return {
        "Known biases": _biases(manifest, document),
        "Human oversight": _oversight(),
        "Changes": _changes(),
        "Cybersecurity": _security(),
        "Risk management": to_fill("the risk management file (ISO 14971) and its number") + "\n",
        "Monitoring and logs": _monitoring(manifest),
        "Standards": _standards(),
        "For a medical device": _device(),
        "Where it goes in a technical file": table(("point", "section or file"), PLACES),
    }


def _provider(manifest: dict[str, Any]) -> str:
    lines = [
        to_fill("name and address of the provider, and of the manufacturer"),
        f"Version {manifest['version']} of `{manifest['name']}`, made with Solblom "
        f"{plain(manifest['environment']['solblom'])}.",
        "Whether it is a candidate, validated, released or withdrawn stands in `log/` and in the coordinator's log, "
        "since that changes and this card does not.",
    ]
    superseded = "".join(
        f"\nIt supersedes {plain(entry['version'])}, {code(entry['artefact'])}. What changed:\n\n"
        f"{bullets(plain(change) for change in entry['changes'])}"
        for entry in manifest["supersedes"]
    )
    return bullets(lines) + (superseded or "\nThere is no earlier version of this name.\n")


def _interaction(manifest: dict[str, Any], document: StudyDocument) -> str:
    onnx = manifest["model"]["onnx"]
    lines = [
        f"Reads {_input(document)}; `model/preprocess.json` says how.",
        f"Gives {_output(document)}.",
        "Weights: `model/weights.safetensors`. "
        + (
            "`model/model.onnx` is the same model for other runtimes; `model/equivalence.json` says how far they agree."
            if onnx is not None
            else f"There is no ONNX file: {plain(manifest['model']['without_onnx'])}."
        ),
        f"Trained and written on {plain(manifest['environment']['machine'])} with Python "
        f"{plain(manifest['environment']['python'])}; it needs no accelerator. Hospitals' hardware is not known here.",
        to_fill("the systems it is used with, the user interface, and the instructions for use"),
    ]
    return bullets(lines)


def _input(document: StudyDocument) -> str:
    contract = document.contract
    if isinstance(contract, PhenotypeContract):
        return f"phenopackets with terms of HPO {contract.ontology.release}"
    if isinstance(contract, BagContract):
        encoder = contract.encoder
        return f"tiles of slides at {encoder.microns_per_pixel:g} µm per pixel, {encoder.tile_px} pixels wide"
    return f"a table, one row per patient ({counted(len(contract.variable), 'variable')})"


def _output(document: StudyDocument) -> str:
    contract = document.contract
    if isinstance(contract, PhenotypeContract):
        return f"{counted(len(contract.target.diseases), 'disease')} in order, by scores that are no probabilities"
    what = (
        "of each tile" if document.study.task.name == "tile-classification" else "of each patient"
    )
    return f"a probability {what}: {plain(contract.target.meaning.en)}"


def _made(manifest: dict[str, Any], document: StudyDocument) -> str:
    study, training = document.study, document.study.training
    privacy, model = study.privacy, manifest["model"]
    settings = ", ".join(f"{key} {value}" for key, value in sorted(study.task.model.items()))
    strategy = f"{training.strategy}, {counted(training.local_steps, 'local step')} a round"
    rows = [
        ("task", manifest["task"]),
        ("net", plain(settings)),
        ("parameters", f"{model['parameters']:,}"),
        ("rounds", str(training.rounds)),
        ("method", f"{strategy}, learning rate {training.learning_rate:g}"),
        (
            "a patient's gradient",
            f"clipped to norm {privacy.clipping_norm:g}{_averaged(document)}; noise {_noise(document)}",
        ),
        ("sampling", f"each {privacy.unit} with probability {privacy.sampling_rate:g} at a step"),
        ("sums divided by", _divisor(document)),
        ("aggregation", f"{manifest['training']['aggregation']['rule']}"),
        ("arithmetic of the sum", manifest["training"]["aggregation"]["arithmetic"]),
        ("averaging", training.averaging),
        ("seed of initial weights", str(training.seed)),
        ("replay", plain(manifest["training"]["replay_grade"])),
    ]
    parents = table(
        ("made of", "digest"),
        ((plain(p["role"]), code(p["digest"])) for p in manifest["parents"]),
    )
    return (
        f"{table(('setting', 'value'), rows)}\n{parents}\n{_compared(document)}"
        "Design: divisors, weights, standardisation and sampling are public constants of the study, never statistics "
        "of patients; `training/study.toml` has every setting. "
        f"{to_fill('alternatives that were considered, and computing time and energy')}\n"
    )


def _divisor(document: StudyDocument) -> str:
    batch = document.study.training.expected_batch_size
    if not isinstance(batch, dict):
        return f"{batch:g} at every hospital"
    return ", ".join(f"{plain(site)} {number:g}" for site, number in sorted(batch.items()))


def _compared(document: StudyDocument) -> str:
    """Return what the rule means where hospitals' updates are compared; nothing for sums."""
    training = document.study.training
    if training.strategy not in ROBUST:
        return ""
    return (
        f"Rule: {rule_in_words(training)}. {MEANS[training.strategy]} It bounds what wrong updates can do; it does "
        "not tell a false hospital from one whose patients are unlike the others'.\n\n"
    )


def _averaged(document: StudyDocument) -> str:
    return ", then averaged within the family" if document.by_family else ""


def _noise(document: StudyDocument) -> str:
    if document.noise_multiplier is None:
        return "none"
    return f"multiplier {document.noise_multiplier}, {document.study.privacy.noise}"


def _data(manifest: dict[str, Any], document: StudyDocument) -> str:
    rows = (
        (
            site,
            ", ".join(entry["patients"]) or "no update",
            f"`{entry['code'][0][:19]}…`" if entry["code"] else "not known",
        )
        for site, entry in sorted(manifest["sites"].items())
    )
    cohort, split = document.study.cohort, document.study.evaluation.split
    units = "families" if document.by_family else "patients"
    lines = [
        f"Data contract: {plain(document.contract.name)}, version {document.contract.version}.",
        f"Labels: {_labels(document)}",
        f"Included: patients whom the hospital's consent rule allows, at least {cohort.min_patients} at a hospital; "
        f"{split.test_fraction:g} of them kept for testing, by {split.by}.",
        f"Cleaning: {_cleaning(document)}",
        to_fill("period of the data, where and how they were collected, criteria of inclusion"),
    ]
    return (
        f"{table(('hospital', f'training {units}, band', 'code of the node'), rows)}\n"
        f"{bullets(lines)}\n{_variables(document)}"
    )


def _cleaning(document: StudyDocument) -> str:
    if isinstance(document.contract, PhenotypeContract):
        return (
            "terms are brought to the pinned release; what is not used is counted at the hospital."
        )
    if isinstance(document.contract, BagContract):
        return "tiles are cut and left out as the contract says; a tool outside Solblom has its own rules."
    return (
        "values out of the contract's ranges are refused, missing ones have a fixed place, units and codes are brought "
        "to the contract's by each hospital's own map."
    )


def _labels(document: StudyDocument) -> str:
    contract = document.contract
    if isinstance(contract, PhenotypeContract):
        return f"the diagnosis in each phenopacket, one of {len(contract.target.diseases)}."
    target = contract.target
    yes, no = (", ".join(map(plain, codes)) for codes in (target.positive, target.negative))
    return f"{plain(target.meaning.en)} ({code(target.column)}: yes {yes}; no {no}). " + to_fill(
        "who labelled, and how well"
    )


def _variables(document: StudyDocument) -> str:
    contract = document.contract
    if not isinstance(contract, Contract):
        return ""
    rows = [
        (
            plain(v.name),
            f"{v.minimum:g} to {v.maximum:g} {plain(v.unit)}"
            if isinstance(v, NumberVariable)
            else v.kind,
            plain(v.meaning.en),
        )
        for v in contract.variable[:MOST_VARIABLES]
    ]
    more = len(contract.variable) - len(rows)
    rest = f"\nand {more} more in `model/preprocess.json`.\n" if more > 0 else ""
    genes = contract.expression
    told = (
        ""
        if genes is None
        else f"\nExpression of {len(genes.columns):,} genes, {plain(genes.unit)}.\n"
    )
    return table(("variable", "range", "meaning"), rows) + rest + told


def _biases(manifest: dict[str, Any], document: StudyDocument) -> str:
    bands = {band for entry in manifest["sites"].values() for band in entry["patients"]}
    lines = [
        *_weighting(document),
        "Clipping, where it takes anything, takes most from patients whose gradients are largest: those whom the model "
        "fits worst.",
        f"Hospitals' training sets lie in the bands {', '.join(sorted(bands, key=_lower)) or 'that no receipt names'}.",
        to_fill("groups that are missing or rare in these hospitals, and how labels may be wrong"),
    ]
    return bullets(lines)


def _weighting(document: StudyDocument) -> list[str]:
    training = document.study.training
    if training.strategy not in ROBUST:
        return [
            f"Sums of patients are divided by one public number: {_alike(document)} a large hospital more than "
            "a small one."
        ]
    own = isinstance(training.expected_batch_size, dict)
    unit, units = ("family", "families") if document.by_family else ("patient", "patients")
    return [
        "Hospitals' updates are compared, and what lies far out is left out: what only a few hospitals' patients show "
        "may be missing from this model, honest or not.",
        f"Each hospital's sums are divided by its own public number: hospitals count alike, and a {unit} of a small "
        "hospital more than one of a large."
        if own
        else f"All hospitals' sums are divided by one public number: an update's size shows how many {units} a "
        "hospital has, so the largest and the smallest hospitals are left out first.",
    ]


def _alike(document: StudyDocument) -> str:
    if document.by_family:
        return "each family counts alike, its members less the more they are, and"
    return "each patient counts alike, and"


def _lower(band: str) -> int:
    return int(band.partition("-")[0])


def _oversight() -> str:
    return bullets(
        [
            "A model is verified before it predicts; each prediction says that it is for research, and can leave a "
            "receipt of model, input and answer.",
            "For rankings the terms that speak for and against a disease are shown, for slides the tiles that count.",
            "A hospital can stop taking part at any time (`solblom node pause`, `node revoke`).",
            to_fill(
                "who oversees the use, what they are trained in, and when they must not follow the model"
            ),
        ]
    )


def _changes() -> str:
    return bullets(
        [
            "No change is made in place: another training, study or environment is another version, with another "
            "digest, and names the version that it supersedes.",
            to_fill("the plan of changes that are foreseen, and how each will be judged"),
        ]
    )


def _security() -> str:
    return bullets(
        [
            "Every file is named by a signed statement; `solblom-verify` finds any changed, missing or extra byte.",
            "Orders and results are signed, and encrypted from vault to coordinator; what sees patients has no network "
            "of its own.",
            "No pickle, no code in the folder; weights are read as numbers.",
            "Components with versions and licences: `code/sbom.cdx.json`. Nobody has looked them up in a list of "
            "vulnerabilities for this card.",
            to_fill("the security of the place where it is used"),
        ]
    )


def _monitoring(manifest: dict[str, Any]) -> str:
    return bullets(
        [
            "Logs: `training/rounds.jsonl` and receipts in this folder, the coordinator's log, and each hospital's own "
            "log of decisions (`solblom node log verify`).",
            "A withdrawn version is marked so in the coordinator's log; a copy of this folder does not learn of it.",
            "Consent that is withdrawn is honoured from the next round on. What a patient gave before stays in the "
            "model, bounded by epsilon.",
            to_fill("the plan for monitoring after release, and how long logs are kept"),
        ]
    )


def _standards() -> str:
    return (
        "Specifications that the files and messages follow:\n\n"
        + bullets(SPECIFICATIONS)
        + "\n"
        + to_fill(
            "harmonised standards that were applied, and the declaration of conformity, if there is one"
        )
        + " This card declares none.\n"
    )


def _device() -> str:
    return bullets(
        [
            "Software of unknown provenance (SOUP): `code/lock.txt` and `code/sbom.cdx.json`.",
            to_fill("safety class under IEC 62304, and the life cycle of IEC 82304"),
            to_fill("clinical evaluation report, UDI-DI, risk class"),
        ]
    )
