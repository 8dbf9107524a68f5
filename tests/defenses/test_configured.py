"""Defenses by name with settings of their own."""

import pytest

from subpop.defenses import DEFENSES
from subpop.runtime.cell_code import entry_text
from subpop.testing import gaussian
from subpop.types import BadInput, Knowledge


def test_a_name_with_settings_is_the_defense_with_them():
    toy = gaussian(240, 2, n_poison=24)
    defended = DEFENSES["trim(max_rounds=1)"](toy.train(), toy.fit, Knowledge(n_poison=24), seed=0)
    assert defended.diagnostics["rounds"] == 1
    assert DEFENSES["trim(max_rounds=1)"].needs == {"n_poison"}
    assert "trim(max_rounds=1)" in DEFENSES
    assert "nothing(k=1)" not in DEFENSES
    assert "trim(max_rounds=1)" not in list(DEFENSES)


def test_other_settings_are_another_entry_of_a_key():
    texts = {entry_text(DEFENSES[name]) for name in ("trim", "trim(max_rounds=1)", "trim(max_rounds=2)")}
    assert len(texts) == 3


def test_a_registered_defense_has_settings_too(monkeypatch):
    monkeypatch.setitem(DEFENSES, "mine", DEFENSES["trim"])
    assert DEFENSES["mine(max_rounds=2)"].keywords == {"max_rounds": 2}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("trim(rounds=3)", "trim has no setting 'rounds'; it has max_rounds"),
        ("none(k=1)", "none has no setting 'k'; it has none"),
        ("trim(3)", r"the defense 'trim\(3\)' cannot be read; write settings as in dpa\(k=7\)"),
        ("trim(max_rounds=", "cannot be read"),
        ("trim(max_rounds=seed)", "cannot be read"),
        ("trim(seed=1)", "trim has no setting 'seed'"),
    ],
)
def test_what_is_no_setting_is_refused(name, message):
    with pytest.raises(BadInput, match=message):
        DEFENSES[name]
