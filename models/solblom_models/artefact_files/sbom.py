"""Bills of materials (CycloneDX), with the licence of each component: of a model's lock, and of a folder of wheels.

The same components give the same bytes: the serial number follows from them, and there is no time.
"""

import json
import uuid
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component as BomComponent
from cyclonedx.model.component import ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from solblom_models.artefact_files.lock import Component, lock_digest
from solblom_verify.canonical import canonical_json, digest

_SPDX = {  # names that metadata use and that mean one licence of the SPDX list
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "MIT License": "MIT",
    "3-Clause BSD License": "BSD-3-Clause",
    "ISC License": "ISC",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}
NO_LICENCE = "not stated in the package's metadata"


@lru_cache(maxsize=8)  # a hundred components take the library a third of a second
def bill_of_materials(components: tuple[Component, ...], *, name: str, version: str) -> bytes:
    """Return the bill of materials of a model's making, canonical JSON (CycloneDX 1.6)."""
    model = BomComponent(
        name=name,
        version=version,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=f"model:{name}@{version}",
    )
    needed = [component.name for component in components if component.is_ours]
    return _written(model, components, needed=needed, serial=f"lock:{lock_digest(components)}")


def bill_of_wheels(
    components: tuple[Component, ...], wheels: Mapping[str, str], *, name: str, version: str
) -> bytes:
    """Return the bill of materials of a folder of wheels, canonical JSON (CycloneDX 1.6).

    Args:
        components: one a wheel, by their metadata.
        wheels: component's name → SHA-256 of its wheel, hexadecimal.
        name: of what is installed from the folder; needs the components that begin with it.
        version: of what is installed from the folder.
    """
    application = BomComponent(
        name=name,
        version=version,
        type=ComponentType.APPLICATION,
        bom_ref=f"application:{name}@{version}",
    )
    needed = [c.name for c in components if c.name.startswith("solblom-")]
    listed = canonical_json(dict(sorted(wheels.items())))
    return _written(
        application, components, needed=needed, serial=f"wheels:{digest(listed)}", wheels=wheels
    )


def _written(
    whole: BomComponent,
    components: tuple[Component, ...],
    *,
    needed: Iterable[str],
    serial: str,
    wheels: Mapping[str, str] | None = None,
) -> bytes:
    parts = {c.name: _part(c, None if wheels is None else wheels[c.name]) for c in components}
    bom = Bom(
        serial_number=uuid.uuid5(uuid.NAMESPACE_URL, f"urn:solblom:{serial}"),
        metadata=BomMetaData(component=whole),
        components=parts.values(),
    )
    bom.register_dependency(whole, [parts[name] for name in needed])
    for component in components:
        bom.register_dependency(parts[component.name], [parts[n] for n in component.needs])
    value: Any = json.loads(JsonV1Dot6(bom).output_as_string())
    del value["metadata"]["timestamp"]
    return canonical_json(value)


def _part(component: Component, wheel: str | None) -> BomComponent:
    kept = {"record-sha256": component.record, "code-sha256": component.code}
    return BomComponent(
        name=component.name,
        version=component.version,
        type=ComponentType.LIBRARY,
        bom_ref=f"{component.name}@{component.version}",
        purl=PackageURL("pypi", name=component.name, version=component.version),
        licenses=[_licence(component.licence)],
        hashes=[] if wheel is None else [HashType(alg=HashAlgorithm.SHA_256, content=wheel)],
        properties=[
            Property(name=f"solblom:{key}", value=value.removeprefix("sha256:"))
            for key, value in kept.items()
            if value is not None
        ],
    )


def _licence(text: str | None) -> Any:
    """Return a licence of the SPDX list, an expression of such, or a name as it stands."""
    return LicenseFactory().make_from_string(_SPDX.get(text or "", text or NO_LICENCE))
