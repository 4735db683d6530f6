"""The page's own words, one catalogue for each language, and which language a reader wants."""

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal, get_args

Language = Literal["en", "no"]
LANGUAGES: tuple[Language, ...] = get_args(Language)
TAGS = {"en": "en", "no": "nb"}
"""BCP 47 tags: what is written here is Norwegian bokmål."""

ACCEPTED = {"en": "en", "no": "no", "nb": "no", "nn": "no"}


@dataclass(frozen=True)
class Texts:
    """One language's texts by `section.key`; a text that is missing is an error, never an empty place.

    Attributes:
        language: which.
        entries: the page's own words.
        findings: words for what the verifier and the codes say; none in English, which they say themselves.
    """

    language: Language
    entries: dict[str, str]
    findings: dict[str, str]

    def __call__(self, key: str, **values: object) -> str:
        """Return a text with its places filled."""
        return self.entries[key].format_map(values)

    def has(self, key: str) -> bool:
        """Tell whether there is such a text, for words that come from records."""
        return key in self.entries

    def told(self, key: str) -> str | None:
        """Return this language's words for a finding by its code; None: the record's own English stays."""
        return self.findings.get(key)

    def count(self, key: str, number: int, **values: object) -> str:
        """Return a text in singular (`key_one`) or plural (`key_many`)."""
        form = "one" if number == 1 else "many"
        return self.entries[f"{key}_{form}"].format_map({"number": number, **values})


@cache
def texts(language: Language) -> Texts:
    """Return the catalogue of a language."""
    findings = {} if language == "en" else _catalogue(f"told-{language}.toml")
    return Texts(language, _catalogue(f"{language}.toml"), findings)


def _catalogue(file: str) -> dict[str, str]:
    data = files("solblom_server.steward") / "texts" / file
    tables = tomllib.loads(data.read_text(encoding="utf-8"))
    return {
        f"{name}.{key}": value for name, table in tables.items() for key, value in table.items()
    }


def language_of(asked: str | None, accept: str) -> Language:
    """Return the language that `?lang=` names, else the first of Accept-Language that there is, else English."""
    for wanted in (asked or "", *_by_weight(accept)):
        found = ACCEPTED.get(wanted.strip().lower().partition("-")[0])
        if found is not None:
            return "no" if found == "no" else "en"
    return "en"


def _by_weight(accept: str) -> list[str]:
    """Return the languages of an Accept-Language header, the most wanted first (RFC 9110 §12.5.4)."""
    found = []
    for place, part in enumerate(accept[:500].split(",")):
        name, _, parameter = part.partition(";")
        weight = parameter.strip().removeprefix("q=") or "1"
        try:
            found.append((-float(weight), place, name))
        except ValueError:
            continue
    return [name for _, _, name in sorted(found)]
