"""code/sbom.cdx.json: the lock as a CycloneDX bill of materials, with the licence of each component.

The same components give the same bytes: the serial number follows from the lock, and there is no time.
"""

import json
import uuid
from functools import lru_cache
from typing import Any

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component as BomComponent
from cyclonedx.model.component import ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from solblom_models.artefact_files.lock import Component, lock_digest
from solblom_verify.canonical import canonical_json

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
    parts = {component.name: _part(component) for component in components}
    bom = Bom(
        serial_number=uuid.uuid5(uuid.NAMESPACE_URL, f"urn:solblom:lock:{lock_digest(components)}"),
        metadata=BomMetaData(component=model),
        components=parts.values(),
    )
    bom.register_dependency(model, [parts[c.name] for c in components if c.is_ours])
    for component in components:
        bom.register_dependency(parts[component.name], [parts[n] for n in component.needs])
    value: Any = json.loads(JsonV1Dot6(bom).output_as_string())
    del value["metadata"]["timestamp"]
    return canonical_json(value)


def _part(component: Component) -> BomComponent:
    kept = {"record-sha256": component.record, "code-sha256": component.code}
    return BomComponent(
        name=component.name,
        version=component.version,
        type=ComponentType.LIBRARY,
        bom_ref=f"{component.name}@{component.version}",
        purl=PackageURL("pypi", name=component.name, version=component.version),
        licenses=[_licence(component.licence)],
        properties=[
            Property(name=f"solblom:{key}", value=value.removeprefix("sha256:"))
            for key, value in kept.items()
            if value is not None
        ],
    )


def _licence(text: str | None) -> Any:
    """Return a licence of the SPDX list, an expression of such, or a name as it stands."""
    return LicenseFactory().make_from_string(_SPDX.get(text or "", text or NO_LICENCE))
