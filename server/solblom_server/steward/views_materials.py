"""What lies beside the model: permits, consent as receipts tell it, the exported net, and what it was made with."""

from typing import Any

from solblom_server.steward.artefact_files import ArtefactFiles
from solblom_server.steward.blocks import (
    Block,
    Cell,
    Code,
    English,
    Facts,
    Notice,
    Paragraph,
    Section,
    Table,
)
from solblom_server.steward.scene import Scene, when

FILES = (
    ("lock", "code/lock.txt"),
    ("sbom", "code/sbom.cdx.json"),
    ("crate", "ro-crate-metadata.json"),
    ("onnx", "model/model.onnx"),
)


def materials_sections(scene: Scene, files: ArtefactFiles) -> tuple[Section, ...]:
    """Return what lies beside the model."""
    texts = scene.texts
    return (
        Section("permits", texts("study.permits"), _permits(scene, files)),
        Section("consent", texts("material.consent"), _consent(scene, files)),
        Section("onnx", texts("material.onnx"), _onnx(scene, files)),
        Section("materials", texts("sign.materials"), _made_with(scene, files)),
    )


def _permits(scene: Scene, files: ArtefactFiles) -> tuple[Block, ...]:
    texts, index = scene.texts, files.json("permits/index.json")
    if not isinstance(index, dict):
        return (Notice("quiet", texts("study.no_permits"), (texts("study.no_permits_more"),)),)
    rows: list[tuple[Cell, ...]] = [
        (
            str(entry["file"]).removeprefix("permits/"),
            str(entry["issuer"]["name"]),
            ", ".join(entry["sites"]) or "–",
            when(str(entry["valid"]["from"])),
            when(str(entry["valid"]["until"])),
        )
        for entry in index.get("permits", [])
    ]
    names = ("file", "issuer", "hospitals", "from", "until")
    head = tuple(texts(f"column.{name}") for name in names)
    blocks: list[Block] = []
    if rows:
        blocks.append(Table(texts("material.permits_caption"), head, tuple(rows)))
    missing = sorted(index.get("missing", {}))
    if missing:
        line = texts("material.no_permit_for", hospitals=", ".join(missing))
        blocks.append(Notice("quiet", texts("study.no_permits"), (line,)))
    blocks.append(Paragraph((English(str(index.get("note", ""))),)))
    return tuple(blocks)


def _consent(scene: Scene, files: ArtefactFiles) -> tuple[Block, ...]:
    texts, summary = scene.texts, files.json("consent/summary.json")
    if not isinstance(summary, dict):
        return (Notice("quiet", texts("sign.absent"), ()),)
    rows = tuple(
        (site, *_bands(found["rounds"])) for site, found in sorted(summary["sites"].items())
    )
    names = ("hospital", "band", "consent_states", "cohorts")
    told = [
        English(str(line)) for line in (summary.get("commitments"), *summary.get("not_told", ()))
    ]
    return (
        Table(texts("material.consent_caption"), tuple(texts(f"column.{n}") for n in names), rows,
              frozenset({2, 3})),
        *(Paragraph((line,)) for line in told if line.text != "None"),
    )  # fmt: skip


def _bands(rounds: list[dict[str, Any]]) -> tuple[str, str, str]:
    """Return a hospital's bands of patient counts, and for how many rounds it gave digests of consent and cohort."""
    bands = ", ".join(dict.fromkeys(str(found["patients"]) for found in rounds))
    return (
        bands or "–",
        str(sum("consent" in found for found in rounds)),
        str(sum("cohort" in found for found in rounds)),
    )


def _onnx(scene: Scene, files: ArtefactFiles) -> tuple[Block, ...]:
    texts, found = scene.texts, files.json("model/equivalence.json")
    if not isinstance(found, dict) or not found.get("onnx"):
        # Where ONNX could not be written, the file says why; it stays English, like all texts of the artefact.
        reason = found.get("reason") if isinstance(found, dict) else None
        return (Notice("quiet", texts("material.no_onnx"), (str(reason),) if reason else ()),)
    return (
        Facts((
            (texts("material.vectors"), str(found["vectors"])),
            (texts("material.apart"), texts("material.apart_value", most=found["largest_difference"],
                                            tolerance=found["tolerance"])),
            (texts("material.onnx_digest"), Code(str(found["onnx"]))),
        )),
    )  # fmt: skip


def _made_with(scene: Scene, files: ArtefactFiles) -> tuple[Block, ...]:
    texts, environment = scene.texts, files.manifest["environment"]
    rows: list[tuple[Cell, ...]] = [("Python", str(environment.get("python", "–")))]
    packages = environment.get("packages", {})
    rows += [(name, str(version)) for name, version in sorted(packages.items())]
    head = (texts("column.package"), texts("column.version"))
    there = tuple(
        (texts(f"sign.has_{key}"),
         texts("sign.there") if (files.folder / path).is_file() else texts("sign.absent"))
        for key, path in FILES
    )  # fmt: skip
    return (Facts(there), Table(texts("sign.environment"), head, tuple(rows)))
