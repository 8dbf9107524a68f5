"""No cell's random seeds move unnoticed: each is compared with the committed table."""

from __future__ import annotations

from seed_table import committed, computed

from subpop.runtime.seeds import defense_seed, shuffle_seed, training_seed
from subpop.types import Cell, Trial


def test_every_cell_has_the_seeds_of_the_table() -> None:
    """A cell that is new or gone needs `python tests/seed_table.py`; a seed that moved needs a reason in CHANGELOG.md."""
    now, before = {row[:2]: row[2:] for row in computed()}, {row[:2]: row[2:] for row in committed()}
    assert len(before) == len(committed())
    assert {key: (before.get(key), now.get(key)) for key in before | now if before.get(key) != now.get(key)} == {}


def test_seeds_of_different_purposes_differ() -> None:
    rows = committed()
    columns = list(zip(*(row[2:] for row in rows), strict=True))
    assert not any(set(one) & set(other) for i, one in enumerate(columns) for other in columns[:i])


def test_a_secret_moves_what_a_plug_in_could_rebuild() -> None:
    cell = Cell.of("s", "embedded", "digits", "mlp", "feature_match", "label_flip", 1.0, "mine")
    trial = Trial("digit=3", 1)
    assert shuffle_seed(cell, trial) != shuffle_seed(cell, trial, "secret")
    assert defense_seed(cell, trial) != defense_seed(cell, trial, "secret")
    assert training_seed(cell, 1) == training_seed(cell.with_(defense="none", victim="mlp_wide"), 1)
