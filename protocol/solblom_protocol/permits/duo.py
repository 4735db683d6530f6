"""Data use terms (GA4GH DUO): the ids that a permit may name, and what they mean in our own words.

Only ids of this table are taken: a term that nobody here can read could grant or forbid anything.
"""

from solblom_protocol.contracts.meaning import Meaning

DISEASE_SPECIFIC = "DUO:0000007"
GENERAL_RESEARCH = "DUO:0000042"

DUO_TERMS: dict[str, Meaning] = {
    f"DUO:{number:07d}": Meaning(en=english, no=norwegian)
    for number, english, norwegian in (
        (4, "no restriction", "ingen begrensning"),
        (6, "health and medical research", "helse- og medisinsk forskning"),
        (7, "research on the named disease", "forskning på den nevnte sykdommen"),
        (11, "research on ancestry only", "bare forskning på opphav"),
        (12, "for the named kind of research only", "bare for den nevnte typen forskning"),
        (15, "not for method development alone", "ikke for metodeutvikling alene"),
        (16, "genetic studies only", "bare genetiske studier"),
        (18, "non-profit bodies and uses only", "bare ikke-kommersielle aktører og formål"),
        (19, "results must be published", "resultater må publiseres"),
        (20, "together with the data's owner", "i samarbeid med dataenes eier"),
        (21, "needs an ethics approval", "krever etisk godkjenning"),
        (22, "within the named region", "innenfor den nevnte regionen"),
        (24, "no publication before a date", "ingen publisering før en dato"),
        (25, "until a date", "frem til en dato"),
        (26, "for the named users only", "bare for de nevnte brukerne"),
        (27, "for the named project only", "bare for det nevnte prosjektet"),
        (28, "for the named institution only", "bare for den nevnte institusjonen"),
        (29, "results go back to the data's owner", "resultater tilbake til dataenes eier"),
        (31, "method development", "metodeutvikling"),
        (32, "research on populations", "forskning på befolkninger"),
        (33, "research on ancestry", "forskning på opphav"),
        (34, "research on an age group", "forskning på en aldersgruppe"),
        (35, "research on a gender", "forskning på et kjønn"),
        (36, "as controls", "som kontroller"),
        (37, "biomedical research", "biomedisinsk forskning"),
        (38, "genetic research", "genetisk forskning"),
        (39, "development of drugs", "utvikling av legemidler"),
        (40, "research on a group of diseases", "forskning på en sykdomsgruppe"),
        (42, "any research", "all forskning"),
        (43, "clinical care", "klinisk behandling"),
        (44, "no research on ancestry", "ikke forskning på opphav"),
        (45, "non-profit bodies only", "bare ikke-kommersielle aktører"),
        (46, "non-commercial use only", "bare ikke-kommersiell bruk"),
    )
}
