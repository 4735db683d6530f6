"""The data contract of phenopackets: which HPO release, which diseases, which patients, which features.

Everything that a patient's features depend on stands here or in the two pinned public files, so every hospital
makes the same numbers of the same patient, without looking at the others (privacy.md rule 2).
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from solblom_protocol.contracts.meaning import Meaning, Text

DiseaseId = Annotated[str, Field(pattern=r"^(OMIM|ORPHA|MONDO|DECIPHER):[0-9]{1,9}$")]
FileDigest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
DESCRIBED = ("disease", "sex", "age_band")
"""What Table 1 of a study on phenopackets can count."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class OntologyTable(_Table):
    """The release of the Human Phenotype Ontology, and its two public files by digest."""

    release: Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")]
    ontology: FileDigest  # hp.obo
    annotations: FileDigest  # phenotype.hpoa


class PatientsTable(_Table):
    """Who is one patient."""

    # Within a hospital a subject id names one patient; published cases count patients anew in each paper.
    scope: Literal["subject", "publication"] = "subject"


class FeaturesTable(_Table):
    """How a case becomes a vector. Weights come from public annotations, never from patients."""

    terms: Literal["study", "all"] = (
        "study"  # the closure of what annotates the study's diseases, or any
    )
    weights: Literal["information", "ones"] = "information"
    excluded_scale: Annotated[float, Field(ge=0, le=10)] = 1.0  # beside observed terms; 0: not used


class DiseaseEntry(_Table):
    """One disease of the label space, and other ids under which hospitals may have coded it."""

    id: DiseaseId
    name: Text
    also: tuple[DiseaseId, ...] = ()


class DiseaseTarget(_Table):
    """The label space: the diseases that are ranked, fixed by the study."""

    name: Text
    diseases: Annotated[tuple[DiseaseEntry, ...], Field(min_length=2, max_length=5_000)]
    meaning: Meaning

    @model_validator(mode="after")
    def _ids(self) -> "DiseaseTarget":
        seen: set[str] = set()
        for disease in self.diseases:
            for named in (disease.id, *disease.also):
                if named in seen:
                    raise ValueError(f"the disease {named} stands twice")
                seen.add(named)
        ids = [disease.id for disease in self.diseases]
        if ids != sorted(ids):
            raise ValueError("diseases must stand in the order of their ids")
        return self


class PhenotypeContract(_Table):
    """What every hospital's phenopackets must hold, and what is made of them."""

    kind: Literal["phenopackets"]
    name: Text
    version: Annotated[int, Field(ge=1)]
    ontology: OntologyTable
    patients: PatientsTable = PatientsTable()
    features: FeaturesTable = FeaturesTable()
    target: DiseaseTarget

    @property
    def labels(self) -> dict[str, str]:
        """Return every id that may stand in a case, and the study's id for it."""
        return {named: d.id for d in self.target.diseases for named in (d.id, *d.also)}
