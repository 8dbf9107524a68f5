"""Tuned settings: what they are chosen on, the criterion, and that nothing of the scored cells is read before the choice."""

import csv
import sys
from types import SimpleNamespace

import pytest
import tuning
from tuning import Measured

from subpop.defenses import DEFENSES
from subpop.defenses.tuned import is_tuned, tuned
from subpop.experiments.attack_sets import FOLDER
from subpop.experiments.experiment import Experiment
from subpop.harness.batching import DefenseError
from subpop.runtime.no_store import NoStore
from subpop.types import BadInput, Number

NAMES = ["dpa", "dpa(k=5)", "dpa(k=7)"]


class Scores:
    """An experiment with made-up damages and costs of each defense; subpopulations are rows `a`, `b` and `scored`."""

    def __init__(self, damages, costs, refused=None):
        self.damages, self.costs, self.refused = damages, costs, refused or {}
        self.asked = []

    def run(self, cell):
        self.asked.append(cell)
        if cell.defense in self.refused:
            raise self.refused[cell.defense]
        damages = {**self.damages[cell.defense], "small": 1.0}
        rows = tuple(
            {"subpopulation": name, "target_damage": value, "n_test": 5.0 if name == "small" else 30.0}
            for name, value in damages.items()
        )
        clean = Number("clean_accuracy", 0.9), Number("defended_clean_accuracy", 0.9 - self.costs[cell.defense])
        return SimpleNamespace(table=rows, numbers=clean)


def chosen(experiment, left_out=("scored",)):
    """The name of the configuration that the script chooses."""
    cells = tuning.development_cells()
    found = [tuning.measure(experiment, cells, name, {key: set(left_out) for key in ("digits", "mixture")}) for name in NAMES]
    best = tuning.choice([each.score for each in found])
    return None if best is None else found[best].name


# --- what settings are chosen on --------------------------------------------------------------------------------------


def test_development_cells_are_label_flips_at_alpha_1_on_splits_that_are_not_scored():
    cells, scored = tuning.development_cells(), tuning.undefended_cells()
    assert {(cell.dataset, cell.data.split) for cell in cells} == {
        (name, split) for name in ("digits", "mixture") for split in (2, 3)
    }
    assert {(cell.dataset, cell.data.split) for cell in scored} == {
        (name, split) for name in ("digits", "mixture") for split in (0, 1)
    }
    assert {(cell.attack, cell.rate, cell.option("sampling")) for cell in cells} == {("label_flip", 1.0, "distinct")}
    assert {cell.defense for cell in cells} == {"none"}


def test_a_split_that_is_scored_is_refused(monkeypatch):
    monkeypatch.setattr(tuning, "DEVELOPMENT_SPLITS", (2, 1))
    with pytest.raises(AssertionError, match=r"scored splits.*1"):
        tuning.development_cells()


def test_no_attacked_subpopulation_of_a_scored_cell_is_used():
    """By name, over both scored splits of a data set; every other subpopulation is."""
    experiment = Experiment.on(NoStore(), partitions=tuning.ROOT / "baselines" / FOLDER)
    names = tuning.scored_names(experiment)
    for cell in tuning.undefended_cells():
        assert set(experiment.context.stage(cell).attacked) <= names[cell.dataset]
    for cell in tuning.development_cells():
        everything = experiment.context.stage(cell).attacked
        rest = set(everything) - names[cell.dataset]
        assert len(rest) >= 3
        own = Scores(
            {name: dict.fromkeys(everything, 0.5) | dict.fromkeys(rest, 0.2) for name in NAMES}, dict.fromkeys(NAMES, 0.0)
        )
        assert tuning.measure(own, [cell], "dpa", names).damage == pytest.approx(0.2)


# --- the criterion ----------------------------------------------------------------------------------------------------


def of(a, b, scored=0.0):
    return {"a": a, "b": b, "scored": scored}


def test_damage_and_clean_accuracy_given_up_count_the_same():
    """Sums: .30 + .00, .16 + .10 and .06 + .25. The smallest damage alone is that of k = 7, the smallest cost that of `dpa`."""
    damages = {"dpa": of(0.4, 0.2), "dpa(k=5)": of(0.12, 0.2), "dpa(k=7)": of(0.04, 0.08)}
    experiment = Scores(damages, {"dpa": 0.0, "dpa(k=5)": 0.1, "dpa(k=7)": 0.25})
    assert chosen(experiment) == "dpa(k=5)"
    assert {cell.data.split for cell in experiment.asked} == {2, 3}


def test_scored_subpopulations_and_small_ones_do_not_count():
    damages = {"dpa": of(0.2, 0.2, 0.9), "dpa(k=5)": of(0.3, 0.3, 0.0), "dpa(k=7)": of(0.4, 0.4, 0.0)}
    assert chosen(Scores(damages, dict.fromkeys(NAMES, 0.0))) == "dpa"


def test_the_first_of_equal_configurations_is_chosen():
    assert tuning.choice([0.3, 0.2000001, 0.2]) == 1  # equal but for the order of sums
    assert tuning.choice([0.3, 0.200002, 0.2]) == 2
    assert tuning.choice([None, 0.3, 0.3]) == 1
    assert tuning.choice([None, None]) is None


@pytest.mark.parametrize(
    "refusal",
    [
        BadInput("k is larger than the rows"),
        DefenseError(0, "k=50: too few rows"),
    ],
    ids=["before a trial", "in a trial"],
)
def test_a_configuration_that_one_cell_refuses_is_out(refusal):
    damages = {name: of(0.1 * i, 0.1 * i) for i, name in enumerate(NAMES)}
    assert chosen(Scores(damages, dict.fromkeys(NAMES, 0.0), {"dpa": refusal})) == "dpa(k=5)"
    assert chosen(Scores(damages, dict.fromkeys(NAMES, 0.0), dict.fromkeys(NAMES, refusal))) is None


def test_the_default_of_dpa_is_refused_by_a_real_cell():
    """It needs more rows than the data set has. No other error would count as a refusal."""
    cell = tuning.development_cells()[0].with_(n_seeds=1)
    experiment = Experiment.on(NoStore(), partitions=tuning.ROOT / "baselines" / FOLDER)
    assert tuning.measure(experiment, [cell], "dpa", {}) == Measured("dpa", None, None)


def test_a_defense_that_crashes_is_not_left_out_silently():
    crash = DefenseError(0, "ZeroDivisionError: division by zero", "line 3\nZeroDivisionError: division by zero")
    damages = {name: of(0.1, 0.1) for name in NAMES}
    with pytest.raises(DefenseError, match="division by zero"):
        chosen(Scores(damages, dict.fromkeys(NAMES, 0.0), {"dpa(k=5)": crash}))


# --- hindsight --------------------------------------------------------------------------------------------------------


@pytest.fixture
def script(tmp_path, monkeypatch):
    """The script with one defense, whose best configuration is k = 5 on development cells and k = 7 on scored ones; returns what
    was measured, with the settings that had been written by then."""
    calls = []

    def run(store, defense, scored):
        written = tuning.TUNED.read_text(encoding="utf-8") if tuning.TUNED.exists() else ""
        calls.append((defense, scored, written))
        values = (0.5, 0.4, 0.1) if scored else (0.5, 0.2, 0.3)
        return [Measured(name, value, value) for name, value in zip(NAMES, values, strict=True)]

    monkeypatch.setattr(tuning, "TUNED", tmp_path / "tuned.csv")
    monkeypatch.setattr(tuning, "run", run)
    monkeypatch.setattr(tuning, "candidates", lambda: ["dpa"])
    monkeypatch.setattr(tuning, "default_of", lambda defense: defense)
    monkeypatch.setattr(tuning, "Parallel", lambda **options: lambda tasks: [f(*args, **more) for f, args, more in tasks])
    arguments = ["tuning.py", "--store", str(tmp_path / "s.sqlite"), "--page", str(tmp_path / "page.md")]
    monkeypatch.setattr("sys.argv", arguments)
    tuning.main()
    return calls, tmp_path


def test_settings_are_written_before_a_scored_cell_is_measured_and_hindsight_is_on_the_page_only(script):
    calls, folder = script
    (row,) = csv.DictReader((folder / "tuned.csv").open())
    assert (row["tuned"], row["score_default"], row["score_tuned"]) == ("dpa(k=5)", "0.500000", "0.200000")
    assert row["n_configurations"] == "3"
    assert [(defense, scored) for defense, scored, _ in calls] == [("dpa", False), ("dpa", True)]
    assert calls[1][2] == (folder / "tuned.csv").read_text()
    page = (folder / "page.md").read_text()
    assert "best in hindsight (optimistic)" in page
    (line,) = [each for each in page.splitlines() if each.startswith("| dpa")]
    assert [each.strip() for each in line.strip("|").split("|")][-3:] == ["50.0", "40.0", "10.0"]


def test_lines_of_other_defenses_stay_as_they_are(script, monkeypatch):
    _, folder = script
    before = {name: (folder / name).read_text() for name in ("tuned.csv", "page.md")}
    names = ["jtt", *[f"jtt(weight={weight})" for weight in (5, 7)]]
    scores = {False: (0.6, 0.5, 0.4), True: (0.3, 0.3, 0.2)}
    found = lambda store, defense, scored: [Measured(*each) for each in zip(names, scores[scored], scores[scored], strict=True)]  # noqa: E731
    monkeypatch.setattr(tuning, "run", found)
    monkeypatch.setattr(tuning, "candidates", lambda: ["jtt", "dpa"])
    monkeypatch.setattr("sys.argv", [*sys.argv, "--only", "jtt"])
    tuning.main()
    rows = list(csv.DictReader((folder / "tuned.csv").open()))
    assert [(row["defense"], row["tuned"]) for row in rows] == [("jtt", "jtt(weight=7)"), ("dpa", "dpa(k=5)")]
    assert before["tuned.csv"].splitlines()[1] == (folder / "tuned.csv").read_text().splitlines()[2]
    own = [
        [part.strip() for part in row.strip("|").split("|")]
        for row in (folder / "page.md").read_text().splitlines()
        if "|" in row
    ]
    old = [[part.strip() for part in row.strip("|").split("|")] for row in before["page.md"].splitlines() if "|" in row]
    assert own[2] == ["jtt", "jtt(weight=7)", "60.0", "40.0", "3", "30.0", "20.0", "20.0"]
    assert own[3:] == old[2:]
    assert "lower by more than 5 points when they are tuned: 2; higher" in (folder / "page.md").read_text()


# --- what is committed ------------------------------------------------------------------------------------------------


def test_the_committed_settings_are_configurations_that_the_defenses_declare():
    with tuning.TUNED.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["defense"]: row["tuned"] for row in rows} == tuned()
    assert set(tuned()) <= set(tuning.candidates())
    for row in rows:
        declared = [tuning.name_of(row["defense"], settings) for settings in DEFENSES[row["defense"]].configurations]
        assert row["tuned"] in declared
        assert tuning.settings_are_known(row["tuned"])
        assert 1 <= int(row["n_configurations"]) <= len(declared)
        if row["score_default"]:
            assert float(row["score_tuned"]) <= float(row["score_default"])


def test_only_the_chosen_settings_are_tuned(monkeypatch):
    monkeypatch.setattr("subpop.defenses.tuned.tuned", lambda: {"dpa": "dpa(k=5)", "jtt": "jtt"})
    assert [name for name in ("dpa", "dpa(k=5)", "dpa(k=7)", "trim", "jtt") if is_tuned(name)] == ["dpa(k=5)"]


def test_no_row_of_the_suite_has_settings_that_are_another_rows_tuned_ones():
    """A default by that name would leave the ranks."""
    module = tuning.suite()
    defaults = {*module.FEW_ROWS.values(), *module.MANY_ROWS.values(), *module.LINEAR, *module.ON_NETWORKS}
    assert not [name for name in defaults if is_tuned(name)]


def test_a_setting_that_a_defense_does_not_have_is_noticed():
    assert not tuning.settings_are_known("dpa(parts=5)")
    assert tuning.settings_are_known("dpa(k=5)")
    assert tuning.settings_are_known("dpa")
