"""The words of the page «what left this hospital», in bokmål and English."""

from solblom_protocol.errors import CODES

WORDS: dict[str, dict[str, str]] = {
    "en": {
        "title": "What left this hospital",
        "simulation": "A simulation: its patients are made up.",
        "budget": "Privacy budget over the node's lifetime: epsilon",
        "spent": "spent",
        "left": "left",
        "study": "Study",
        "for_all": "for one patient, over everything this study was given",
        "when": "When",
        "what": "What",
        "status": "Status",
        "bytes": "bytes",
        "numbers": "numbers",
        "epsilon": "Epsilon alone",
        "to": "to key",
        "receipt": "Receipt",
        "by": "by",
        "train": "update of round",
        "evaluate": "histogram number",
        "describe": "table number",
        "released": "left",
        "manual-release": "released by a person",
        "manual-reject": "rejected by a person, erased",
        "held": "waits for a person, has not left",
        "refused": "Refused",
        "times": "times",
        "unknown": "Orders that could not be read, refused:",
        "nothing": "Nothing has left for this study.",
        "pruned": "Decisions before number {first} were forgotten when their retention ended.",
        "entries": "decisions in the log, newest of",
        "never": "No patient, row, identifier, picture or free text has left: only numbers of the approved "
        "form, with noise as epsilon says, and codes.",
        "means": "Epsilon bounds how much anybody can learn about one patient from all of it together; "
        "smaller is better. From the node's ledger, receipts and log of decisions; check the log with "
        "`solblom node log verify`.",
    },
    "no": {
        "title": "Dette har forlatt sykehuset",
        "simulation": "En simulering: pasientene er oppdiktet.",
        "budget": "Personvernbudsjett for nodens levetid: epsilon",
        "spent": "brukt",
        "left": "igjen",
        "study": "Studie",
        "for_all": "for én pasient, over alt denne studien har fått",
        "when": "Når",
        "what": "Hva",
        "status": "Status",
        "bytes": "byte",
        "numbers": "tall",
        "epsilon": "Epsilon alene",
        "to": "til nøkkel",
        "receipt": "Kvittering",
        "by": "av",
        "train": "oppdatering fra runde",
        "evaluate": "histogram nummer",
        "describe": "tabell nummer",
        "released": "sendt ut",
        "manual-release": "frigitt av en person",
        "manual-reject": "avvist av en person, slettet",
        "held": "venter på en person, ikke sendt ut",
        "refused": "Avslått",
        "times": "ganger",
        "unknown": "Oppdrag som ikke lot seg lese, avslått:",
        "nothing": "Ingenting er sendt ut for denne studien.",
        "pruned": "Avgjørelser før nummer {first} er slettet da lagringstiden gikk ut.",
        "entries": "avgjørelser i loggen, den nyeste fra",
        "never": "Ingen pasienter, rader, identifikatorer, bilder eller fritekst er sendt ut: bare tall i den "
        "godkjente formen, med støy slik epsilon sier, og koder.",
        "means": "Epsilon begrenser hvor mye noen kan lære om én pasient av alt dette til sammen; lavere er "
        "bedre. Hentet fra nodens regnskap, kvitteringer og logg over avgjørelser; loggen kontrolleres med "
        "`solblom node log verify`.",
    },
}

REFUSALS_NO = {
    "SB-201": "Oppdraget er ikke signert av den koordinatoren sykehuset kjenner",
    "SB-202": "Oppdraget er feil utformet eller ment for en annen",
    "SB-203": "Studien er ikke godkjent ved dette sykehuset",
    "SB-204": "Personvernbudsjettet tillater det ikke",
    "SB-205": "Sykehusets regler tillater det ikke",
    "SB-206": "Studien er avsluttet, eller oppdraget er utløpt",
    "SB-207": "Oppdraget er utenfor rekkefølgen eller spilt av på nytt",
    "SB-208": "Oppdraget nevner en kvittering som denne noden ikke kjenner",
    "SB-209": "Sykehusets data tillater det ikke",
    "SB-210": "Studien er stoppet her til et menneske har sett på det",
    "SB-211": "Den installerte koden er ikke den som ble godkjent",
    "SB-212": "Modellen i oppdraget kan ikke brukes",
    "SB-213": "Oppdateringen slapp ikke gjennom utgangskontrollen",
    "SB-214": "Noden sviktet innvendig",
    "SB-215": "Studien er ikke signert av en forsker som sykehuset kjenner",
    "SB-216": "Den sikre summen er ikke den som ble godkjent",
    "SB-217": "Tillatelsen mangler, er ugyldig eller dekker ikke dette",
    "SB-218": "Tillatelsen er trukket tilbake, eller listen over tilbaketrekkinger beviser ingenting i dag",
    "SB-219": "Sykehuset har ikke sagt ja eller nei ennå",
    "SB-220": "Et menneske ved sykehuset bestemte at svaret ikke utleveres",
    "SB-221": "Koordinatorens logg er ikke den som sykehuset har sett",
}
"""Titles of the codes with which a hospital refuses, in bokmål; the steward's page has the same (a test compares)."""


def refusal(code: str, lang: str) -> str:
    """Return what a code says."""
    title = CODES[code].title
    return REFUSALS_NO.get(code, title) if lang == "no" else title
