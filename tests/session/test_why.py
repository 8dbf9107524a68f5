"""`subpop why`: what made a number red is found by running it again, and on other kernels."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from small_projects import ROOT, make_project, run

from subpop.session import why as module
from subpop.session.kernels import Outcome
from subpop.session.why import CODE, NOISE, cause, page, why
from subpop.types import BadInput

KEY = ("little", "embedded", "digits", "mlp", "feature_match", "label_flip", "1.0", "none", "", "", "target_damage_mean")


def outcome(value: float, verdict: str = "fail") -> Outcome:
    reason = "too far" if verdict == "fail" else ""
    return Outcome({KEY: {"value": value, "verdict": verdict, "reason": reason, "reference": 0.2}}, hardware="some kernels")


def test_a_number_that_does_not_repeat_is_noise() -> None:
    assert cause(KEY, outcome(0.3), outcome(0.31), {"Haswell": outcome(0.2, "pass")}) == NOISE


def test_a_number_that_passes_on_other_kernels_is_moved_by_the_machine() -> None:
    elsewhere = {"Haswell": outcome(0.2, "pass"), "SkylakeX": outcome(0.2, "no_power"), "Nehalem": outcome(0.3)}
    assert cause(KEY, outcome(0.3), outcome(0.3), elsewhere).endswith("passes with the kernels of Haswell and SkylakeX")


def test_a_number_that_fails_everywhere_is_changed_by_the_code() -> None:
    assert cause(KEY, outcome(0.3), outcome(0.3), {"Haswell": outcome(0.3), "Nehalem": outcome(0.31)}) == CODE


def test_without_other_kernels_the_cause_is_unknown() -> None:
    assert "can run none of the other kernels" in cause(KEY, outcome(0.3), outcome(0.3), {})


def test_a_cell_that_passes_needs_no_explanation() -> None:
    assert page(outcome(0.2, "pass"), outcome(0.2, "pass"), {}) == (
        "1 number is compared with a reference and passes here (some kernels), so there is nothing to explain.\n",
        0,
    )
    unexplained = replace(outcome(0.2), numbers={KEY: {**outcome(0.2).numbers[KEY], "verdict": "no_reference", "reason": ""}})
    assert page(unexplained, unexplained, {}) == (
        "No number is compared with a reference here (some kernels), so there is nothing to explain.\n",
        0,
    )  # a detail, which no reference is expected of


def test_a_changed_reference_is_the_code_and_a_cell_that_does_not_exist_is_refused(tmp_path, monkeypatch, capfd) -> None:
    project = make_project(tmp_path, rates=(0.5,))
    monkeypatch.chdir(project)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(module, "ASKED", ("Nehalem",))
    suite = ["-p", "no:cacheprovider"]
    run(project, "--rebaseline")
    path = project / "baselines" / "little.csv"
    changed = re.sub(r"(,0.5,none,.*?,target_damage_mean,,,)[^,]*", r"\g<1>0.9", path.read_text())
    assert changed != path.read_text()
    path.write_text(changed)
    with pytest.raises(BadInput, match="no cell matches the selection"):  # there is no report of an earlier run yet
        why("nowhere", project / "why", suite)
    text, status = why("0.5-none", project / "why", suite)
    assert status == 1
    assert text.count(CODE) == 1
    assert "target_damage_mean" in text
    assert "reference 0.9" in text
    with pytest.raises(BadInput, match="no cell matches -k 'nowhere'"):
        why("nowhere", project / "why", suite)
    capfd.readouterr()
