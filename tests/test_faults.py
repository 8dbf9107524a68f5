"""Faults: `python -m pytest tests/test_faults.py -m slow` runs the whole campaign. No wrong number, no finished trial lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from damage import what_flips_do

ENDS = {"unharmed", "missing", "rescued", "refused"}


def test_a_hundred_flipped_bits_change_no_number(tmp_path: Path) -> None:
    """What comes back is the truth or nothing; what is missing is made again, and then the store is whole."""
    ends = what_flips_do(tmp_path, 100, seed=1)
    assert ends.total() == 100
    assert set(ends) <= ENDS
    assert ends["unharmed"] >= 10
    assert ends["missing"] + ends["rescued"] >= 10
    assert ends["refused"] <= 1


@pytest.mark.slow
def test_two_thousand_flipped_bits_change_no_number(tmp_path: Path) -> None:
    ends = what_flips_do(tmp_path, 2000, seed=2)
    print(dict(ends))
    assert ends.total() == 2000
    assert set(ends) <= ENDS
    assert ends["refused"] <= 4  # in the number of the schema
