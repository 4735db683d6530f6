"""The words in which a study is shown to the person who approves it, in English and Norwegian (bokmål)."""

from collections.abc import Mapping
from typing import Literal

from solblom_protocol.errors import ConfigurationError

Lang = Literal["en", "no"]
LANGUAGES: tuple[Lang, ...] = ("en", "no")

LABELS: Mapping[str, str] = {
    "purpose": "formål",
    "legal basis": "rettslig grunnlag",
    "ends": "slutter",
    "signed by": "signert av",
    "permit": "tillatelse",
    "data set": "datasett",
    "was read": "ble lest",
    "promise": "løfte",
    "protects": "verner",
    "will leave": "forlater sykehuset",
    "adds up with": "summerer med",
    "lifetime": "levetidsbudsjett",
    "changed": "endret",
    "study": "studie",
    "code": "kode",
    "WARNING": "ADVARSEL",
    "": "",
}
"""The English label of a line, and the Norwegian one."""

_NOUNS: Mapping[str, tuple[str, str, str, str]] = {
    "patient": ("patient", "patients", "pasient", "pasienter"),
    "update": ("update", "updates", "oppdatering", "oppdateringer"),
    "number": ("number", "numbers", "tall", "tall"),
    "score histogram": ("score histogram", "score histograms", "skårhistogram", "skårhistogrammer"),
    "rank histogram": ("rank histogram", "rank histograms", "ranghistogram", "ranghistogrammer"),
    "family": ("family", "families", "familie", "familier"),
    "hospital": ("hospital", "hospitals", "sykehus", "sykehus"),
    "round": ("round", "rounds", "runde", "runder"),
    "run": ("run", "runs", "kjøring", "kjøringer"),
}

_TEXTS: Mapping[str, tuple[str, str]] = {
    "patients": (
        "{training} for training, {test} kept for testing, {excluded} excluded by consent",
        "{training} til trening, {test} holdt av til testing, {excluded} utelatt etter samtykke",
    ),
    "lifetime": (
        "epsilon {now} now, {after} after the study, of {budget}",
        "epsilon {now} nå, {after} etter studien, av {budget}",
    ),
    "no promise": (
        "NONE: training without noise. An update may reveal single patients.",
        "INTET: trening uten støy. En oppdatering kan avsløre enkeltpasienter.",
    ),
    "promise": (
        "whether or not one patient takes part, nothing that anyone concludes becomes more than "
        "{factor} times as likely, except with probability 1 in {one_in} "
        "(epsilon {epsilon}, delta {delta})",
        "enten én bestemt pasient er med eller ikke, blir ingenting som noen kan slutte, mer enn {factor} ganger "
        "så sannsynlig, unntatt med sannsynlighet 1 av {one_in} (epsilon {epsilon}, delta {delta})",
    ),
    "promise of a family": (
        "whether or not one family takes part, with all its members, nothing that anyone concludes becomes more than "
        "{factor} times as likely, except with probability 1 in {one_in} "
        "(epsilon {epsilon}, delta {delta})",
        "enten én familie, med alle sine medlemmer, er med eller ikke, blir ingen slutning som noen trekker, mer enn "
        "{factor} ganger så sannsynlig, unntatt med sannsynlighet 1 av {one_in} (epsilon {epsilon}, delta {delta})",
    ),
    "unit family": (
        "the family, as your data set names it: {families} to train on, {several} of them of more than one patient; "
        "a patient of no family counts as one alone",
        "familien, slik datasettet deres angir den: {families} til trening, {several} av dem med mer enn én "
        "pasient; en pasient uten familie regnes som en familie alene",
    ),
    "unit family of one patient": (
        "one patient whose family stays: epsilon {epsilon}; this is what your ledger counts",
        "én pasient hvis familie blir igjen: epsilon {epsilon}; det er dette som regnes i deres regnskap",
    ),
    "unit family counted": (
        "of each family one patient is counted in what is released as counts",
        "av hver familie telles én pasient i det som gis ut som antall",
    ),
    "condition": (
        ", if at most {colluders} below works with the coordinator",
        ", hvis høyst {colluders} nedenfor samarbeider med koordinatoren",
    ),
    "without noise": ("WITHOUT NOISE", "UTEN STØY"),
    "with noise": ("with noise", "med støy"),
    "under masks": (
        "with a share of the noise, under masks that only the sum of all hospitals takes off",
        "med en andel av støyen, under masker som bare summen av alle sykehus tar av",
    ),
    "updates": (
        "{updates} of {size} {noise}, each with a signed receipt that gives the "
        "number of patients as a band such as 100-199",
        "{updates} på {size} {noise}, hver med en signert kvittering som gir antall pasienter som "
        "et intervall, for eksempel 100-199",
    ),
    "updates kept": (
        "your updates with their noise are kept in the model folder, for all who have the model: with them "
        "anybody can work out again how it was made",
        "sykehusets oppdateringer, med støy, blir liggende i modellmappen hos alle som har modellen: med dem kan "
        "hvem som helst regne ut på nytt hvordan modellen ble til",
    ),
    "sums kept": (
        "the opened sums of all hospitals are kept in the model folder, for all who have the model; your part "
        "alone is not",
        "de åpnede summene over alle sykehus blir liggende i modellmappen hos alle som har modellen; dette "
        "sykehusets del alene gjør det ikke",
    ),
    "histograms": (
        "{what} of the test patients, {cells} counts with noise",
        "{what} av testpasientene, {cells} antall med støy",
    ),
    "table one": (
        "Table 1 of all patients, counts with noise: {names}",
        "Tabell 1 over alle pasienter, antall med støy: {names}",
    ),
    "named": ("WITHOUT NOISE, outside epsilon: {names}", "UTEN STØY, utenfor epsilon: {names}"),
    "threshold all": (
        "threshold: all {nodes}; if one is missing, no sum is opened",
        "terskel: alle {nodes}; mangler ett, åpnes ingen sum",
    ),
    "threshold": (
        "threshold: {needed} of {nodes}; a sum of fewer is never opened",
        "terskel: {needed} av {nodes}; en sum av færre åpnes aldri",
    ),
    "assumed": (
        "assumed: at most {colluders} of them with the coordinator; each of the "
        "others adds its share of the noise",
        "forutsatt: høyst {colluders} av dem sammen med koordinatoren; hvert av de andre legger til "
        "sin andel av støyen",
    ),
    "alone": (
        "if all of them work together: epsilon {epsilon} for your "
        "patients, from your own share alone",
        "hvis alle samarbeider: epsilon {epsilon} for deres pasienter, av egen andel alene",
    ),
    "two hospitals": (
        "a patient of two of these hospitals: epsilon {epsilon} from the training",
        "en pasient ved to av disse sykehusene: epsilon {epsilon} av treningen",
    ),
    "part fits": (
        "Only {fit} of the study's {rounds} "
        "fit the lifetime budget of {budget}: the others will be refused (SB-204)",
        "Bare {fit} av studiens {rounds} får plass i levetidsbudsjettet på {budget}: de andre vil bli "
        "avvist (SB-204)",
    ),
    "releases do not fit": (
        "All rounds fit the lifetime budget of {budget}, but not all releases after "
        "them: those will be refused (SB-204)",
        "Alle runder får plass i levetidsbudsjettet på {budget}, men ikke alle utgivelser etter dem: "
        "de vil bli avvist (SB-204)",
    ),
    "other size": (
        "The study compares hospitals' updates and divides your sums by {divisor} {units}; about {expected} of "
        "yours are in a step. Your update will look smaller or larger than it is: tell the researcher",
        "Studien sammenligner sykehusenes oppdateringer og deler deres summer på {divisor} {units}; omtrent "
        "{expected} av deres er med i et steg. Oppdateringen vil se mindre eller større ut enn den er: si fra til "
        "forskeren",
    ),
    "privacy off": (
        "Privacy is off: this study uses up the lifetime budget for good, and no study with "
        "privacy can follow",
        "Personvernet er slått av: studien bruker opp levetidsbudsjettet for godt, og ingen studie "
        "med personvern kan følge",
    ),
    "permit by": ("{jti} of {issuer}, {key}", "{jti} fra {issuer}, {key}"),
    "permit dates": (
        "valid {begin} to {end}; the noise root is destroyed at {root}",
        "gyldig {begin} til {end}; støyroten slettes {root}",
    ),
    "permit basis": ("on the basis of: {basis}", "på grunnlag av: {basis}"),
    "permit limits": (
        "at most {rounds} in {runs}, epsilon {epsilon}, delta {delta}; at least {patients} to train on",
        "høyst {rounds} i {runs}, epsilon {epsilon}, delta {delta}; minst {patients} å trene på",
    ),
    "permit code": (
        "only with {count} of the issuer's choice of installed code",
        "bare med installert kode som utstederen har valgt: {count}",
    ),
    "changed since": (
        "since the version that was approved on {date}:",
        "siden versjonen som ble godkjent {date}:",
    ),
    "unchanged": (
        "nothing since the approval of {date}",
        "ingenting siden godkjenningen {date}",
    ),
    "first": (
        "no version of this study was approved here before",
        "ingen versjon av denne studien er godkjent her før",
    ),
}


def read_language(given: str) -> Lang:
    """Return the language that a person named.

    Raises:
        ConfigurationError: SB-103.
    """
    for lang in LANGUAGES:
        if lang == given:
            return lang
    raise ConfigurationError("SB-103", f"There is no language {given!a}", "Choose en or no")


def all_texts() -> tuple[tuple[str, str], ...]:
    """Return every text in English and Norwegian."""
    return tuple(_TEXTS.values())


def text(lang: Lang, key: str) -> str:
    """Return a text with its places for values."""
    return _TEXTS[key][LANGUAGES.index(lang)]


def label(lang: Lang, english: str) -> str:
    """Return the label of a line."""
    return english if lang == "en" else LABELS[english]


def number_of(lang: Lang, number: int, noun: str) -> str:
    """Return a number with its noun."""
    one, many = _NOUNS[noun][:2] if lang == "en" else _NOUNS[noun][2:]
    return f"{number} {one if number == 1 else many}"


def plural_of(lang: Lang, noun: str) -> str:
    """Return a noun as it stands after a number that is not whole."""
    return _NOUNS[noun][1 if lang == "en" else 3]


def printable(words: str) -> str:
    """Return text of others with control and direction characters spelt out: it must not repaint the screen.

    A title could otherwise move the cursor, or turn what follows around (Unicode TR36, section 2.4).
    """
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in words)
