"""The page of attacks names every attack that the tests try, and none that they do not."""

import re

from attack_table import PAGE, files, named_tests


def test_the_page_names_the_attacks_that_are_tried_and_no_others() -> None:
    words = re.findall(r"^\| ([^|]+) \| \d+ \| [^|]+ \|$", PAGE.read_text(encoding="utf-8"), re.M)
    tried = [
        name.removeprefix("test_").replace("_", " ")
        for path in files()
        for name in named_tests(path)
    ]
    assert sorted(words) == sorted(tried), "run `make attacks`"


def test_no_attack_on_the_page_failed_and_few_were_not_run() -> None:
    text = PAGE.read_text(encoding="utf-8")
    found = re.search(
        r"(\d+) attacks in ([\d,]+) cases: ([\d,]+) held, (\d+) failed, (\d+) could", text
    )
    assert found is not None
    attacks, cases, held, failed, skipped = (int(x.replace(",", "")) for x in found.groups())
    assert attacks >= 60
    assert failed == 0
    assert held + skipped == cases
    assert skipped < cases / 20
