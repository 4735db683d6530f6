"""What RO-Crate 1.1 and the profile Process Run Crate 0.5 ask of a crate, checked without a network or a context file.

Ours is held to what they ask with SHOULD as well as to what they ask with MUST. It is no SHACL engine: the public
validator is tried by bench/crate_validator.py.

Sources: https://w3id.org/ro/crate/1.1 (root data entity, metadata descriptor, data entities) and
https://w3id.org/ro/wfrun/process/0.5 (table "Requirements").
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from solblom_models.artefact_files.crate import CRATE, METADATA, PROFILE

_DATE = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}:[0-9]{2}(Z|[+-][0-9]{2}:[0-9]{2}))?"
)
_TOOLS = {"SoftwareApplication", "SoftwareSourceCode", "ComputationalWorkflow"}
_ACTIONS = {"CreateAction", "ActivateAction", "UpdateAction"}
_DATA = {"File", "Dataset", "Collection", "CreativeWork", "PropertyValue"}
_FAILED = "http://schema.org/FailedActionStatus"
_STATUS = ("http://schema.org/CompletedActionStatus", _FAILED)

Entity = Mapping[str, Any]


def profile_errors(crate: Any) -> tuple[str, ...]:
    """Return what is wrong with a crate's metadata, each in a sentence; nothing for a good one."""
    if not isinstance(crate, dict) or not isinstance(crate.get("@graph"), list):
        return ("The metadata are no object with a @graph",)
    graph = crate["@graph"]
    if not all(isinstance(e, dict) and isinstance(e.get("@id"), str) for e in graph):
        return ("An entity of the graph is no object with an @id",)
    entities = {entity["@id"]: entity for entity in graph}
    found = list(_form(crate, graph))
    for name, check in ((METADATA, _descriptor), ("./", _root)):
        if name in entities:
            found += check(entities[name], entities)
        else:
            found.append(f"There is no entity {name}")
    actions = [entity for entity in graph if _types(entity) & _ACTIONS]
    if not actions:
        found.append("There is no action")
    for action in actions:
        found += _action(action, entities)
    found += _data_entities(entities)
    return tuple(found)


def _form(crate: Entity, graph: list[Entity]) -> Iterator[str]:
    contexts = _listed(crate.get("@context"))
    if f"{CRATE}/context" not in contexts:
        yield f"The context lacks {CRATE}/context"
    ids = [entity["@id"] for entity in graph]
    if len(set(ids)) != len(ids):
        yield "Two entities have one @id"
    known = set(ids)
    for entity in graph:
        if not _types(entity):
            yield f"{entity['@id']} has no @type"
        for key, value in entity.items():
            for reference in _references(value):
                if not re.match(r"[a-z]+://", reference) and reference not in known:
                    yield f"{entity['@id']}.{key} names {reference}, which is not in the graph"


def _descriptor(entity: Entity, entities: Mapping[str, Entity]) -> Iterator[str]:
    if "CreativeWork" not in _types(entity):
        yield "The descriptor is no CreativeWork"
    if _references(entity.get("about")) != ["./"]:
        yield "The descriptor is not about ./"
    if CRATE not in _references(entity.get("conformsTo")):
        yield f"The descriptor does not conform to {CRATE}"


def _root(entity: Entity, entities: Mapping[str, Entity]) -> Iterator[str]:
    if "Dataset" not in _types(entity):
        yield "The root is no Dataset"
    for key in ("name", "description"):
        if not _is_text(entity.get(key)):
            yield f"The root has no {key}"
    if not _is_date(entity.get("datePublished")):
        yield "The root has no datePublished in ISO 8601"
    if not (_references(entity.get("license")) or _is_text(entity.get("license"))):
        yield "The root has no license"
    for key in ("author", "publisher"):
        named = [_types(entities.get(who, {})) for who in _references(entity.get(key))]
        if not named or not all(kinds & {"Person", "Organization"} for kinds in named):
            yield f"The root has no {key} who is a Person or an Organization"
    yield from _conforms(entity, entities)


def _conforms(entity: Entity, entities: Mapping[str, Entity]) -> Iterator[str]:
    profile = entities.get(PROFILE)
    if PROFILE not in _references(entity.get("conformsTo")):
        yield f"The root does not conform to {PROFILE}"
    if (
        profile is None
        or "CreativeWork" not in _types(profile)
        or not _is_text(profile.get("name"))
    ):
        yield "The profile is no CreativeWork with a name"
    mentioned = _references(entity.get("mentions"))
    for name, other in entities.items():
        if _types(other) & _ACTIONS and name not in mentioned:
            yield f"The root does not mention {name}"


def _action(action: Entity, entities: Mapping[str, Entity]) -> Iterator[str]:
    name = action["@id"]
    for key in ("name", "description"):
        if not _is_text(action.get(key)):
            yield f"{name} has no {key}"
    if not _is_date(action.get("endTime")):
        yield f"{name} has no endTime in ISO 8601"
    if "startTime" in action and not _is_date(action["startTime"]):
        yield f"{name} has a startTime that is not in ISO 8601"
    status = action.get("actionStatus")
    if status is not None and status not in _STATUS:
        yield f"{name} has an unknown actionStatus"
    if "error" in action and status != _FAILED:
        yield f"{name} has an error and did not fail"
    yield from _who_and_what(action, entities)


def _who_and_what(action: Entity, entities: Mapping[str, Entity]) -> Iterator[str]:
    name = action["@id"]
    tools = _references(action.get("instrument"))
    if not tools:
        yield f"{name} has no instrument"
    for tool in tools:
        yield from _tool(entities.get(tool, {}), tool)
    agents = [entities.get(agent, {}) for agent in _references(action.get("agent"))]
    if not agents or not all(_types(agent) & {"Person", "Organization"} for agent in agents):
        yield f"{name} has no agent who is a Person or an Organization"
    if not _references(action.get("result")) and "ActivateAction" not in _types(action):
        yield f"{name} has no result"
    for key in ("object", "result"):
        for reference in _references(action.get(key)):
            if not _types(entities.get(reference, {})) & _DATA:
                yield f"{name}.{key} names {reference}, which is no data"


def _tool(tool: Entity, name: str) -> Iterator[str]:
    if not _types(tool) & _TOOLS:
        yield f"The instrument {name} is no software"
    if not _is_text(tool.get("name")):
        yield f"The instrument {name} has no name"
    versions = [key for key in ("version", "softwareVersion") if _is_text(tool.get(key))]
    if len(versions) != 1:
        yield f"The instrument {name} has no version, or two"


def _data_entities(entities: Mapping[str, Entity]) -> Iterator[str]:
    """Yield files and folders that the root does not lead to, and parts that are neither."""
    waiting, reached = ["./"], set()
    while waiting:
        name = waiting.pop()
        if name in reached:
            continue
        reached.add(name)
        for part in _references(entities.get(name, {}).get("hasPart")):
            if not _types(entities.get(part, {})) & {"File", "Dataset"}:
                yield f"{name} has the part {part}, which is neither file nor folder"
            waiting.append(part)
    for name, entity in entities.items():
        if "Dataset" in _types(entity) and not name.endswith("/"):
            yield f"The folder {name} does not end with a slash"
        if _types(entity) & {"File", "Dataset"} and name not in reached:
            yield f"{name} is part of nothing"


def _types(entity: Entity) -> set[str]:
    return {kind for kind in _listed(entity.get("@type")) if isinstance(kind, str)}


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _references(value: Any) -> list[str]:
    return [
        item["@id"]
        for item in _listed(value)
        if isinstance(item, dict) and isinstance(item.get("@id"), str)
    ]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_date(value: Any) -> bool:
    return isinstance(value, str) and _DATE.fullmatch(value) is not None
