"""The embedded tier under other processors' kernels: what is compared, what is reported, and one small suite for real."""

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import t

from subpop.results.references import References, cell_key, rebaseline
from subpop.runtime.hardware import blas_kernels
from subpop.session import kernels
from subpop.session.kernels import PROFILES, RECORDED, environment_of, lacking, main, moved, read_outcome, report, without_repeats
from subpop.types import BadInput, Cell, CellResult, Number

FIXED = {"stem": "s", "tier": "embedded", "dataset": "digits", "victim": "mlp", "partition": "feature_match"}
FIXED |= {"attack": "label_flip", "rate": 1.0, "defense": "none", "setting": "", "subpopulation": ""}


def row(metric="target_damage_worst_5", value=0.5, reference=0.5, atol=0.01, verdict="pass"):
    return {**FIXED, "metric": metric, "value": value, "reference": reference, "atol": atol, "verdict": verdict}


def outcome(tmp_path, *rows, hardware="openblas 0.3 Haswell, 2 threads", status=0):
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"schema": 1, "hardware": hardware, "cells": list(rows)}))
    return read_outcome(path, status)


@pytest.mark.parametrize(
    ("one", "other", "distance"),
    [
        (row(), row(value=0.5049), None),
        (row(), row(value=0.506), 0.6),
        (row(value=0.496), row(value=0.504), 0.8),  # each near the reference, far from one another
        (row(value=0.48, reference=None), row(value=0.5, reference=None), 2),
        (row(), row(value=None), math.inf),
        (row(value=None, reference=None), row(value=None, reference=None), None),
        (row(atol=None), row(value=9.0, atol=None), None),  # seconds, and what has no tolerance
    ],
)
def test_what_counts_as_moved(tmp_path, one, other, distance):
    found = moved({"Haswell": outcome(tmp_path, one), "Nehalem": outcome(tmp_path, other)})
    assert [each[1] for each in found] == ([] if distance is None else [pytest.approx(distance)])


def test_a_number_that_one_profile_lacks_is_no_error(tmp_path):
    outcomes = {"Haswell": outcome(tmp_path, row()), "Nehalem": outcome(tmp_path, row("collateral_damage_max", 0.8))}
    assert [(each[0].split()[-1], each[-2:]) for each in moved(outcomes)] == [("collateral_damage_max", ("", 0.8))]


def test_the_report_names_kernels_red_cells_and_what_was_skipped(tmp_path):
    page = report(
        {
            "Haswell": outcome(tmp_path, row()),
            "Nehalem": outcome(tmp_path, row(value=0.6, verdict="fail"), hardware="openblas 0.3 Nehalem, 1 thread", status=1),
            "Prescott": outcome(tmp_path, row(), hardware="openblas 0.3 Haswell, 2 threads"),
            "SkylakeX": kernels.Outcome({}, skipped="the processor has no avx512f"),
        }
    )
    assert "openblas 0.3 Nehalem, 1 thread" in page
    assert "Haswell, 2 threads (not the kernels that were asked for)" in page
    assert "skipped: the processor has no avx512f" in page
    assert "Red under Nehalem:\n- s embedded digits mlp feature_match label_flip 1.0 none" in page
    assert "1 of 1 numbers moved" in page
    assert "| 10 |" in " ".join(page.split())


def test_a_processor_that_lacks_the_instructions_is_skipped_by_name(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(kernels, "cpu_flags", lambda: frozenset({"sse4_2", "avx2", "fma"}))
    assert lacking(PROFILES["SkylakeX"])[0] == "avx512f"
    assert main(["--profile", "SkylakeX", "--folder", str(tmp_path)]) == 1  # nothing ran, so nothing passed
    assert "skipped: the processor has no avx512f" in capsys.readouterr().out


def test_a_profile_inherits_no_choice_of_kernels(monkeypatch):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Zen")
    monkeypatch.setenv("OPENBLAS_L2_SIZE", "512")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx512")
    own = environment_of(PROFILES["SkylakeX"])
    assert own["OPENBLAS_CORETYPE"] == "SkylakeX"
    assert not {"OPENBLAS_L2_SIZE", "ATEN_CPU_CAPABILITY", "OMP_NUM_THREADS"} & set(own)
    assert own["PATH"] == os.environ["PATH"]


def test_variables_for_a_shell(capsys):
    assert main(["--print-variables", "Nehalem"]) == 0
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith("unset ")
    assert "export NUMBA_CPU_NAME=generic" in rest
    assert main(["--print-variables", "Pentium"]) == 2


def test_an_unknown_profile_and_a_run_without_results(tmp_path):
    assert main(["--profile", "Pentium"]) == 2
    with pytest.raises(BadInput, match="the run left no"):
        read_outcome(tmp_path / "results.json", 4)


def test_code_compiled_for_another_processor_is_not_loaded():
    """Numba's kept code is filed by processor and instruction sets, so that profiles may share its folder."""
    tell = "from numba.core.registry import cpu_target as t; print(t.target_context.codegen().magic_tuple())"
    told = {
        subprocess.run([sys.executable, "-c", tell], env=own, capture_output=True, text=True, check=True).stdout
        for own in (environment_of(PROFILES["Haswell"]), environment_of(PROFILES["Nehalem"]))
    }
    assert len(told) == 2


# --- recording --------------------------------------------------------------------------------------------------------


def number(victim, suite="s", metric="target_damage_mean"):
    return (suite, "embedded", "digits", victim, "feature_match", "label_flip", "1", "none", "", "", metric)


def test_profiles_that_give_the_same_numbers_of_a_victim_count_as_one():
    """The fourth run differs in a second suite of the victim only, and the third equals the first for mlp alone."""
    mlp, elsewhere, conv, seconds = (
        number("mlp"),
        number("mlp", "other"),
        number("conv_net"),
        number("mlp", metric="fleet_seconds"),
    )
    values = [((1, 2), (3, 4), (5, 6)), ((1, 3), (3, 4), (5, 6)), ((1, 2), (3, 4), (5, 7)), ((1, 2), (3, 5), (5, 6))]
    runs = [run_with({mlp: a, elsewhere: b, conv: c, seconds: (i,)}) for i, (a, b, c) in enumerate(values)]
    found = without_repeats(runs)
    assert [[*run] for run in found] == [[mlp, elsewhere, conv], [mlp, elsewhere], [conv], [mlp, elsewhere]]
    assert found[0][mlp] == (1.5, (1, 2))


def run_with(values, **weights):
    numbers = {key: {"value": float(np.mean(seeds)), "by_seed": seeds} for key, seeds in values.items()}
    return kernels.Outcome(numbers, weights=weights)


def test_a_number_that_one_run_lacks_makes_no_difference():
    mlp, other = number("mlp"), number("mlp", "other")
    assert without_repeats([run_with({mlp: (1, 2), other: (1, 2)}), run_with({mlp: (1, 2)})])[1] == {}


def test_runs_that_trained_other_weights_differ_even_with_equal_numbers():
    """Only trainings that all runs have noted are compared: the third run has no others than the first."""
    mlp, conv = number("mlp"), number("conv_net")
    noted = ({"one": "aa", "two": "bb"}, {"one": "ac", "two": "bb"}, {"one": "aa", "three": "zz"})
    runs = [run_with({mlp: (1, 2), conv: (1, 2)}, mlp=weights) for weights in noted]
    assert [[*run] for run in without_repeats(runs)] == [[mlp, conv], [mlp], []]


def test_recording_counts_the_kernels_that_differ(tmp_path, monkeypatch, capsys):
    """Of six profiles two repeat an earlier one, so that a spread has three degrees of freedom and not five."""
    cell = Cell.of("s", "embedded", "digits", "mlp", "feature_match", "label_flip", 1.0).with_(n_seeds=2)
    rebaseline(
        tmp_path / "s.csv", [CellResult(cell, (Number("target_damage_mean", 0.3, std=0.1, by_seed=(0.2, 0.4)),), exact=False)]
    )
    key = ("s", *cell_key(cell), "", "target_damage_mean")
    shifts, options = iter((0.0, 0.0, 0.01, -0.01, 0.0, 0.02, 0.0)), []

    def run_once(environment, folder, for_pytest):
        by, n = next(shifts), 2 if "--seeds-times" in for_pytest else 1
        options.append([word for word in for_pytest if "reverse" in word])
        seeds = [value + by for value in (0.2, 0.4) * n]
        numbers = {key: {**row(), "value": 0.3 + by, "by_seed": seeds, "one_row": 0.04, "n_seeds": 2}}
        numbers[(*key[:-1], "worst_5")] = {**row("worst_5", reference=None), "by_seed": [0.5, 0.5], "one_row": 0.0}
        return kernels.Outcome(numbers, "openblas 0.3 Haswell")

    monkeypatch.setattr(kernels, "run_once", run_once)
    monkeypatch.setattr(kernels, "lacking", lambda profile: [])
    assert main(["--record", "--baselines", str(tmp_path), "--folder", str(tmp_path / "runs")]) == 0
    (found,) = References.load(tmp_path / "s.csv").rows[cell_key(cell)].values()
    assert found["n_kernels"] == "4"
    assert float(found["value"]) == pytest.approx(0.305)
    std = np.std([0, 0.01, -0.01, 0.02], ddof=1)
    assert float(found["kernel_std"]) == pytest.approx(std, rel=1e-5)
    least = 0.04 / 2  # one test row of one of two seeds is more than the deviation
    assert float(found["atol"]) == pytest.approx(
        t.ppf(0.975, 3) * least * math.sqrt(1 + 1 / 4), rel=1e-4
    )  # one number is compared
    assert [float(seed) for seed in found["by_seed"].split()] == pytest.approx([0.205, 0.405, 0.2, 0.4])
    assert "embedded, mlp: 4 of 6 profiles differ\n" in capsys.readouterr().out
    assert options == [[], [], [], *([f"--reverse-rows-in={size}"] for size in (2, 4, 8)), []]
    assert len(RECORDED) == 6


def test_nothing_is_recorded_where_there_are_no_references(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(kernels, "run_once", lambda *_: pytest.fail("it ran"))
    assert main(["--record", "--baselines", str(tmp_path / "none")]) == 2
    assert f"there is no folder {tmp_path / 'none'}" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif("openblas" not in " ".join(blas_kernels()), reason="BLAS is not OpenBLAS, whose kernels can be chosen")
@pytest.mark.skipif(bool(lacking(PROFILES["Nehalem"])), reason="the processor does not run Nehalem's kernels")
def test_a_small_suite_under_two_profiles(tmp_path, capsys, as_many_threads_as_cores):
    names = ["Nehalem", "Haswell, one thread"]
    selected = [part for name in names for part in ("--profile", name)]
    assert main([*selected, "--folder", str(tmp_path), "-k", "table14 and not claim", "-p", "no:xdist"]) == 0
    page = (tmp_path / "README.md").read_text()
    assert page in capsys.readouterr().out
    lines = [line for line in page.splitlines() if line.startswith(("| Nehalem", "| Haswell, one thread"))]
    assert "openblas" in lines[0]
    assert "Nehalem, 2 threads" in lines[0] or os.cpu_count() != 2
    assert "Haswell, 1 thread" in lines[1]
    assert "of 375 numbers moved" in page
