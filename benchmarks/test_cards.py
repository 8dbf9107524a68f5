"""Cards: where each defense must succeed and where it must fail, declared in its module before it was measured.

A cell is one split of a declared case, with the defense, without a defense, or with a control. Its number is the mean target
damage. The claims assert what the cards declare. A defense succeeds if it removes at least 80 % of an undefended damage of at
least .2, for at most .02 of clean accuracy. It fails if it is not better by .05 than a random filter that removes as many rows of
each label, or, if it is no filter, than no defense. No defense and a random filter must miss every success.

Source: the papers named in the modules of the defenses; the thresholds are ours.

Deviations: cases are small and chosen to be clear; they say that an implementation works where its method can work, and not
which defense is best. The suite `scoreboard` compares defenses.
"""

import pytest

from subpop.report.tables.cards import STEM as STEM
from subpop.report.tables.cards import cards, control_of, declared_cells
from subpop.results.declared import outcome

CARDS = cards()
CASES = [(name, case) for name, card in CARDS.items() for case in (card.succeeds, card.fails)]
CELLS = list(
    dict.fromkeys(
        cell
        for name, case in CASES
        for defense in (name, "none", "random_filter", control_of(name))
        for cell in declared_cells(case, defense)
    )
)


def measured(case, name, control, result_of):
    """The outcome of a declared case with any defense."""
    return outcome(*([result_of(cell) for cell in declared_cells(case, each)] for each in (name, "none", control)))


def test_cell(cell, measure):
    measure(cell)


@pytest.mark.parametrize("name", CARDS)
def test_it_succeeds_where_its_card_says_so(name, result_of):
    found = measured(CARDS[name].succeeds, name, control_of(name), result_of)
    assert found.is_success, found


@pytest.mark.parametrize("name", CARDS)
def test_it_fails_where_its_card_says_so(name, result_of):
    found = measured(CARDS[name].fails, name, control_of(name), result_of)
    assert found.is_failure, found


@pytest.mark.parametrize("name", CARDS)
@pytest.mark.parametrize("idle", ["none", "random_filter"])
def test_no_defense_and_a_random_filter_miss_every_success(name, idle, result_of):
    found = measured(CARDS[name].succeeds, idle, "none", result_of)
    assert not found.is_success, found
