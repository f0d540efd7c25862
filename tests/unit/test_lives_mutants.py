"""The bugs that the simulation has to find can be put into the code as it is."""

from __future__ import annotations

from lives_mutants import MUTANTS, ROOT


def test_the_text_that_each_mutant_changes_occurs_exactly_once():
    texts = {file: (ROOT / "batchgen" / file).read_text(encoding="utf-8") for file in {each.file for each in MUTANTS}}
    assert [each for each in MUTANTS if texts[each.file].count(each.old) != 1] == []
