"""Any row of changes to a bundle: at each step what is read with the step before is what is read from scratch."""

import json
import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consent_changes_lab import HERE, MANY, NEW, NO, SETTINGS, in_both_ways, text, whole
from consent_lab import DROP, SYSTEM, consent, patient, permit
from solblom_client.consent.sources import fhir_changes
from solblom_client.consent.sources.fhir_bundle import FhirBundle
from solblom_client.consent.sources.fhir_consent import FhirSettings


@pytest.fixture(autouse=True, scope="module", params=[0.25, 2.0], ids=["as-used", "always"])
def share_that_may_change(request: pytest.FixtureRequest) -> Iterator[None]:
    """With `always` even a bundle of which everything changed is put together from its parts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fhir_changes, "_MOST_CHANGED", request.param)
        yield


WHO = st.sampled_from("abcdefghijkl")
VALUE = st.sampled_from(["a", "b", "c", "åæ", "\U0001f600", "?", "Patient/a", "=b"])
IDENTIFIER = st.fixed_dictionaries(
    {"value": VALUE}, optional={"system": st.sampled_from([SYSTEM, "x"])}
)
REFERENCE = st.one_of(
    st.fixed_dictionaries({"reference": WHO.map("Patient/{}".format)}),
    st.fixed_dictionaries({"reference": WHO.map(f"{HERE}/Patient/{{}}".format)}),
    st.fixed_dictionaries(
        {"identifier": IDENTIFIER}, optional={"reference": WHO.map("Patient/{}".format)}
    ),
)
LINKS = st.lists(
    st.fixed_dictionaries({"other": REFERENCE}, optional={"type": st.just("seealso")}), max_size=2
)
PATIENTS = st.builds(
    patient,
    WHO,
    id=WHO,
    identifier=st.lists(IDENTIFIER, max_size=2) | st.just(DROP),
    link=st.just(DROP) | st.just(DROP) | LINKS,
    deceasedBoolean=st.sampled_from([DROP, DROP, True]),
    birthDate=st.sampled_from(["1970", "2010-06", DROP]),
)
CONSENTS = st.builds(
    consent,
    patient=st.one_of(*[WHO.map(lambda who: {"reference": f"Patient/{who}"})] * 3, REFERENCE),
    status=st.sampled_from(["active", "active", "inactive"]),
    performer=st.sampled_from([DROP, DROP, [{"reference": "RelatedPerson/x"}]]),
    provision=st.builds(
        permit,
        type=st.sampled_from(["permit", "permit", "deny"]),
        purpose=st.sampled_from([[{"code": "HRESCH"}], [{"code": "TREAT"}]]),
        period=st.sampled_from([DROP, {"end": "2026-12-01"}, {"start": "2027"}]),
    ),
)


@st.composite
def entry_texts(draw: st.DrawFn) -> str:
    resource = draw(PATIENTS | CONSENTS | st.just({"resourceType": "Basic"}))
    beside = {"search": {"mode": "include"}} if draw(st.integers(0, 3)) == 0 else {}
    if draw(st.integers(0, 3)) == 0:
        beside["fullUrl"] = f"{HERE}/{resource['resourceType']}/{resource.get('id', 'x')}"
    escape, spaces = draw(st.booleans()), draw(st.sampled_from([None, 1]))
    return json.dumps({**beside, "resource": resource}, ensure_ascii=escape, indent=spaces)


def edited(draw: st.DrawFn, entries: list[str]) -> list[str]:
    """Return entries after one change: in, out, another, moved, copied, turned around, quoted, or broken."""
    number = st.integers(0, max(len(entries) - 1, 0))
    at, other = draw(number), draw(number)
    entry, rest = entries[at : at + 1], entries[:at] + entries[at + 1 :]
    new = draw(entry_texts())
    return draw(
        st.sampled_from(
            [
                [*entries[:at], new, *entries[at:]],
                rest,
                [*rest[:at], new, *rest[at:]],
                [*rest[:other], *entry, *rest[other:]],
                [*entries[:other], *entry, *entries[other:]],
                [*entries[at:], *entries[:at]],
                entries[::-1],
                [*entries, *(text({"resourceType": "Basic", "x": quoted}) for quoted in entry)],
                [*entries[:at], *(whose.replace(": ", ":") for whose in entry), *entries[at + 1 :]],
            ]
        )
    )


@st.composite
def rows_of_bundles(draw: st.DrawFn) -> list[tuple[bytes, FhirSettings]]:
    entries, row = draw(st.lists(entry_texts(), max_size=10)), []
    for _ in range(draw(st.integers(2, 6))):
        for _ in range(draw(st.integers(0, 3))):
            entries = edited(draw, entries)
        data = whole(entries, between=draw(st.sampled_from([", ", ", ", ",\n"])))
        cut = draw(st.sampled_from([0] * 9 + [1, 2, 60]))
        with_settings = draw(st.sampled_from([*SETTINGS[:1] * 6, *SETTINGS]))
        row.append((data[: len(data) - cut], with_settings))
    return row


@settings(max_examples=250, derandomize=True, deadline=None)
@given(row=rows_of_bundles())
def test_any_row_of_bundles_says_the_same_read_on_or_from_scratch(
    row: list[tuple[bytes, FhirSettings]],
) -> None:
    before: FhirBundle | None = None
    for data, with_settings in row:
        before = in_both_ways(data, before, with_settings) or before


@settings(max_examples=60, derandomize=True, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_long_rows_of_changes_to_large_bundles_say_the_same(seed: int) -> None:
    """Long enough for runs, lookups and moved blocks, which short lists never need."""
    rng = random.Random(seed)  # noqa: S311 - made-up patients
    entries, before = MANY[: rng.randrange(2, 240)], None
    for _ in range(4):
        for _ in range(rng.randrange(4)):
            first, last, to = sorted(rng.randrange(len(entries) + 1) for _ in range(3))
            block, rest = entries[first:last], entries[:first] + entries[last:]
            change = rng.randrange(5)
            if change == 0:
                entries = rest or entries
            elif change == 1:
                entries = [*rest[:to], *block, *rest[to:]]
            elif change == 2:
                entries = [*entries[:to], *block[:30], *entries[to:]]
            elif change == 3:
                entries = [*entries[:first], *NEW, NO, *entries[first:]]
            else:
                entries = [
                    *entries[:first],
                    *(e.replace("active", "off") for e in block),
                    *entries[last:],
                ]
        before = in_both_ways(whole(entries), before)
        assert before is not None
