"""The audit: its numbers are those of the suites' cells, bounds bound, budgets hold, and a killed audit resumes."""

import json
import math
import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.dummy import DummyClassifier

import subpop
from subpop import load_dataset, make_victim
from subpop.audit import run as running
from subpop.audit.attacked import SEEDS, Attacks, _m50_of, _Search
from subpop.audit.folds import out_of_fold
from subpop.audit.groups import Group
from subpop.audit.pages import text_page
from subpop.audit.protection import Certified, insertions
from subpop.audit.result import COLUMNS, Audit, Facts, words_of
from subpop.audit.table import read_table
from subpop.experiments.experiment import Experiment
from subpop.runtime.no_store import NoStore
from subpop.types import BadInput, Cell, Dataset, Trial
from subpop.types.kinds import Measurers

FOREST = "sklearn.ensemble:RandomForestClassifier(n_estimators=5)"


def people(n=900):
    """A frame with two columns of categories; north is harder than the rest, and one group has nine rows."""
    generator = np.random.default_rng(0)
    town = generator.choice(["north", "south", "west"], n, p=[0.2, 0.4, 0.4])
    town[:9] = "tiny"
    sex = generator.choice(["f", "m"], n)
    age = generator.normal(40, 9, n)
    noise = np.where(town == "north", 9.0, 2.0)
    paid = age + noise * generator.normal(size=n) > 40
    return pd.DataFrame(
        {"town": town, "sex": sex, "age": age, "pay": generator.normal(size=n), "paid": np.where(paid, "yes", "no")}
    )


@pytest.fixture(scope="module")
def found():
    return subpop.audit(people(), "paid", store=":memory:")


# --- the numbers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "annotation", "grouped_by"), [("mixture", "component", None), ("digits", "digit", "digit")], ids=["all", "chosen"]
)
def test_damage_equals_the_cell_of_a_suite(name, annotation, grouped_by):
    groups = subpop.audit(load_dataset(name), groups=annotation, store=":memory:").groups.set_index("group")
    for rate in (0.5, 2.0):
        cell = Cell.of("mine", "embedded", name, "logistic_regression", "feature_match", rate=rate, grouped_by=annotation)
        table = {str(row["subpopulation"]): row for row in Experiment.on(NoStore()).run(cell).table}
        compared = 0
        for group, row in groups.iterrows():
            if not math.isnan(row[f"damage_{rate:g}"]):
                suite = table[str(group)]
                assert row[f"damage_{rate:g}"] == pytest.approx(suite["target_damage"], abs=1e-12)
                assert row[f"half_width_{rate:g}"] == pytest.approx(suite["target_damage_half_width"], abs=1e-12)
                assert row[f"poison_rows_{rate:g}"] == suite["n_poison"]
                compared += 1
        assert compared >= 8
        assert max(row["target_damage"] for row in table.values()) > 0.05
    assert grouped_by in (None, annotation)


def numbers(**made):
    """The frame of groups of each of these audits by its name."""
    return {name: subpop.audit(*data, groups=["town"], store=store).groups for name, (data, store) in made.items()}


def test_numbers_depend_on_the_rows_and_not_on_the_name_of_the_file(tmp_path):
    """Seeds had come from the name: other worst groups for the same file under another one. One store does not mix files up."""
    frame, store = people(400), tmp_path / "store.sqlite"
    other = frame.assign(paid=frame["paid"].to_numpy()[::-1])
    for name, own in (("one", frame), ("two", frame), ("three", other)):
        own.to_csv(tmp_path / f"{name}.csv", index=False)
    files = {name: ((tmp_path / f"{name}.csv", "paid"), store) for name in ("one", "three")}
    found = numbers(**files, two=((tmp_path / "two.csv", "paid"), ":memory:"), frame=((frame, "paid"), ":memory:"))
    for name in ("two", "frame"):
        pd.testing.assert_frame_equal(found["one"], found[name], rtol=0, atol=1e-12)
    fresh = numbers(three=((other, "paid"), ":memory:"))["three"]
    pd.testing.assert_frame_equal(found["three"], fresh, rtol=0, atol=1e-12)
    assert (found["one"]["damage_1"] - found["three"]["damage_1"]).abs().max() > 0.01


def test_embeddings_and_arrays_of_the_same_rows_have_the_same_numbers(tmp_path):
    data = load_dataset("mixture")
    x, y = data.x[:600], data.y[:600]
    np.savez(tmp_path / "one.npz", x=x, y=y)
    np.savez(tmp_path / "two.npz", x=x, y=y)
    named = Dataset("mine", x, y, 2, n_clusters=2)
    frames = [subpop.audit(tmp_path / name, store=":memory:").groups for name in ("one.npz", "two.npz")]
    frames += [subpop.audit(x, y, store=":memory:").groups]
    for other in frames[1:]:
        pd.testing.assert_frame_equal(frames[0], other, rtol=0, atol=1e-12)
    one, other = (subpop.audit(replace(named, name=name), store=":memory:").groups for name in ("mine", "yours"))
    pd.testing.assert_frame_equal(one, other, rtol=0, atol=1e-12)


def test_m50_agrees_with_the_kind_of_measurement_that_tries_all_numbers():
    groups = subpop.audit(load_dataset("mixture"), groups="component", store=":memory:").groups.set_index("group")
    settings = {"sampling": "distinct", "n_seeds": 3, "kind": "m50", "grouped_by": "component"}
    cell = Cell.of("m", "embedded", "mixture", "logistic_regression", "feature_match", rate=0, **settings)
    table = Measurers(Experiment.on(NoStore()))(cell).table
    same = [(groups.loc[str(row["subpopulation"])], row) for row in table if str(row["subpopulation"]) in groups.index]
    assert len(same) >= 8
    agree = [own["m50"] == row["m50"] and own["m50_is_more"] == row["m50_censored"] for own, row in same]
    assert np.mean(agree) >= 0.9  # bisection may find another crossing of one half
    assert any(row["m50_censored"] == 0 and row["m50"] > 0 for _, row in same)


@pytest.mark.parametrize(
    ("errors", "expected"),
    [([0, 0, 0.5, 1], (3, 0)), ([0, 0, 0, 0.4], (4, 1)), ([0.5, 0.5, 0.6, 1], (1, 0)), ([0, 0.6, 0.6, 0.6], (2, 0))],
)
def test_the_search_for_m50_by_hand(errors, expected):
    search = _Search(None, None, [1, 2, 3, 4], None)
    while not search.is_over:
        search.learn(errors[search._asked] >= 0.5)
    assert search.found == expected


def test_medians_of_m50_by_hand():
    more = _m50_of(np.array([[8, 1], [3, 0], [8, 1]]))
    assert (more.median, more.censored, more.low, more.high) == (8.0, True, 3, 8)
    some = _m50_of(np.array([[8, 1], [3, 0], [5, 0]]))
    assert (some.median, some.censored, some.trivial) == (5.0, False, False)
    assert _m50_of(np.zeros((3, 2), int)).trivial


def test_accuracy_and_sizes_of_groups(found):
    groups = found.groups.set_index("group")
    frame = people()
    assert groups.loc["town=north", "rows"] == (frame["town"] == "north").sum()
    assert groups.loc["town=north, sex=f", "rows"] == ((frame["town"] == "north") & (frame["sex"] == "f")).sum()
    assert "town=tiny" not in groups.index
    assert groups.loc["town=north", "accuracy"] < groups.loc["town=south", "accuracy"] - 0.1
    assert list(found.groups.columns[: len(COLUMNS)]) == list(COLUMNS)
    assert not found.groups["damage_1"].dropna().empty


# --- bounds -----------------------------------------------------------------------------------------------------------


def test_certificates_by_hand():
    own = Certified("", np.array([True, True, True, False]), np.array([0, 2, 5, 9]))
    rows = np.ones(4, bool)
    assert [own.accuracy(rows, m) for m in (0, 1, 2, 3, 6)] == [0.75, 0.5, 0.5, 0.25, 0.0]
    assert own.survives(rows) == 0  # one more row and half of them can be wrong
    assert own.survives(np.array([False, True, True, False])) == 2
    assert own.survives(np.array([True, False, False, True])) is None


def test_the_bound_on_insertions_is_never_below_the_measured_damage():
    data, attacks = load_dataset("mixture"), None
    attacks = Attacks(Experiment.on(NoStore()), "mixture", "logistic_regression", data)
    bound = insertions(attacks)
    k = int(bound.model.split()[0])
    cell = attacks.cell("component", 0.5, n_seeds=1, defense=f"dpa(k={k})")
    stage = attacks.stage(cell)
    results = attacks.experiment.timed_chunk(cell, [Trial(name, 0) for name in stage.attacked])
    errors, bounds = [], []
    for result in results:
        members = stage.test_members(result.trial.subpopulation)
        errors.append(1 - result.arrays["right"][members].mean())
        bounds.append(1 - bound.accuracy(members, int(result.metrics["n_poison"])))
        assert bounds[-1] >= errors[-1]
    clean = [1 - bound.accuracy(stage.test_members(name), 0) for name in stage.attacked]
    assert max(np.subtract(errors, clean)) > 0.01  # the attack does something
    small = attacks.experiment.timed_chunk(cell.with_(defense="none"), [Trial(stage.attacked[0], 0)])
    assert small[0].metrics["n_poison"] > 0


# --- budgets ----------------------------------------------------------------------------------------------------------


def test_budgets_in_words():
    assert [running.budget_seconds(each) for each in (None, "90s", "5m", "1.5h", 30)] == [math.inf, 90, 300, 5400, 30]
    for wrong in ("soon", "0", "-5m", "5 days"):
        with pytest.raises(BadInput, match=f"^budget={wrong} is not a duration; write one above 0 with h, m or s"):
            running.budget_seconds(wrong)


def test_a_budget_is_kept_and_the_rest_listed(monkeypatch):
    """A clock that advances only while something is trained: a second for each fit."""
    now, attacked = [0.0], []
    monkeypatch.setattr(running, "time", type("Clock", (), {"monotonic": staticmethod(lambda: now[0])}))
    damages, timed = Attacks.damages, running._Run._time_a_fit

    def slow(self, targets, alphas=running.ALPHAS):
        found = damages(self, targets, alphas)
        now[0] += SEEDS * len(alphas) * len(targets)
        attacked.extend((each.group.name, tuple(alphas)) for each in targets)
        return found

    def time_a_fit(self, own):
        timed(self, own)
        self.fit_seconds = 1.0

    monkeypatch.setattr(Attacks, "damages", slow)
    monkeypatch.setattr(running._Run, "_time_a_fit", time_a_fit)
    monkeypatch.setattr(running._Run, "_blocks", lambda self, ordered, own: iter([each] for each in ordered))
    found = subpop.audit(people(), "paid", store=":memory:", budget=60)
    groups = found.groups
    assert now[0] <= 60
    assert (groups["damage_1"].notna()).sum() >= 5
    left = groups[groups["seconds_left"] > 0]
    assert len(left) > 3
    assert groups["accuracy"].notna().all()
    assert f"{len(left)} groups were not, or not fully, attacked for lack of time" in found.words
    assert "What did not fit into the budget" in found.to_markdown()
    assert "left out: time that its attacks would take" in found.to_markdown()


def test_a_wrong_time_of_the_first_training_is_corrected_by_attacks(monkeypatch):
    """Something else had stopped the process for 5 s: of 120 s an audit used 24, and left 52 of 58 groups for lack of time."""
    monkeypatch.setattr(running._Run, "_time_a_fit", lambda self, own: setattr(self, "fit_seconds", 2.5))
    found = subpop.audit(people(), "paid", store=":memory:", budget="2m")
    assert (found.groups["seconds_left"] == 0).all()


def test_what_is_stored_is_shown_whatever_the_budget(tmp_path, monkeypatch):
    """A second audit with a smaller budget had dropped the bounds that the first one had stored."""
    first = subpop.audit(people(600), "paid", groups="town", store=tmp_path / "store.sqlite")
    assert first.groups["certified_insertions"].notna().any()
    monkeypatch.setattr(running._Clock, "allows", lambda self, seconds: False)
    monkeypatch.setattr(running, "seconds_of_insertions", lambda attacks: pytest.fail("it is trained to be timed"))
    again = subpop.audit(people(600), "paid", groups="town", store=tmp_path / "store.sqlite", budget=5)
    pd.testing.assert_frame_equal(first.groups, again.groups)
    pd.testing.assert_frame_equal(first.filters, again.filters)
    assert not again.facts["left"]


def test_a_budget_too_small_for_an_attack_is_said(monkeypatch):
    """One fit fits, five do not."""
    timed = running._Run._time_a_fit

    def time_a_fit(self, own):
        timed(self, own)
        self.fit_seconds = 60.0

    monkeypatch.setattr(running._Run, "_time_a_fit", time_a_fit)
    data = load_dataset("mixture")
    found = subpop.audit(data.x[:600], data.y[:600], store=":memory:", budget=400)
    assert "The budget was too small to attack a group; reading the data and starting the estimator took" in found.words
    assert found.groups["damage_1"].isna().all()
    assert found.groups["accuracy"].notna().all()


def test_a_budget_too_small_for_the_folds_is_refused_with_the_time_that_they_take(monkeypatch):
    """A training takes 100 s on a third of the rows, and 5 on four fifths of them are needed: 1200 s; 10 more attack a group."""
    monkeypatch.setattr(running._Run, "_time_a_fit", lambda self, own: setattr(self, "fit_seconds", 100.0))
    told = r"5 trainings of logistic_regression on 80% of 600 rows, about 20 min, longer than the budget of 8 min; .* 37 min:"
    with pytest.raises(BadInput, match=told):
        subpop.audit(people(600), "paid", store=":memory:", budget=490)


@pytest.mark.parametrize(("started", "fit", "n_attacked"), [(24.5, 0.6, 2), (40.0, 0.6, 2), (40.0, 1.5, 0), (2.0, 1.5, 2)])
def test_the_start_of_an_estimator_leaves_half_of_the_budget(started, fit, n_attacked, monkeypatch):
    """Importing torch took a budget of 25 s, and the audit gave up although 5 trainings take 3 s. The attacks take 15."""

    def time_a_fit(self, own):
        self.fit_seconds, self.clock.started = fit, now[0] - started

    now = [100.0]
    monkeypatch.setattr(running, "time", type("Clock", (), {"monotonic": staticmethod(lambda: now[0])}))
    monkeypatch.setattr(running._Run, "_time_a_fit", time_a_fit)
    found = subpop.audit(people(300), "paid", groups="sex", store=":memory:", budget=25)
    assert found.groups["accuracy"].notna().all()
    assert found.groups["damage_1"].notna().sum() == n_attacked
    assert found.facts["seconds"] == started
    told = f"too small to attack a group; reading the data and starting the estimator took {started:.0f} s."
    assert (told in found.words) == (not n_attacked)


class InProcesses:
    """A victim with two processes, each of which needs 3 s for its first training; trainings take 10 ms."""

    exact = True

    def __init__(self, now):
        self.now, self.n_started = now, 0

    def fit_many(self, jobs, seeds):
        n_used = min(len(jobs), 2)
        self.now[0] += 0.01 * len(jobs) / n_used + 3.0 * (n_used > self.n_started)
        self.n_started = max(self.n_started, n_used)
        return [DummyClassifier().fit(job.x, job.y) for job in jobs]


def test_the_start_of_processes_does_not_count_as_training(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(running, "n_cores", lambda: 2)
    monkeypatch.setattr(running, "time", type("Clock", (), {"monotonic": staticmethod(lambda: now[0])}))
    data = load_dataset("mixture")
    run = running._Run(None, data, None, NoStore(), running._Clock(0.0, 60.0))
    own = Attacks(Experiment.on(NoStore()), "mixture", "mine", data)
    own.experiment.context.supply(own.plain, data)
    own.experiment.context.supply_victim(own.plain, InProcesses(now), "mine")
    run._time_a_fit(own)
    assert run.fit_seconds == pytest.approx(0.005)
    assert now[0] < 4


# --- killed and resumed -----------------------------------------------------------------------------------------------


def test_a_killed_audit_resumes_with_the_same_numbers(tmp_path):
    people(600).to_csv(tmp_path / "people.csv", index=False)
    command = [
        sys.executable,
        "-m",
        "subpop",
        "audit",
        "people.csv",
        "--label",
        "paid",
        "--groups",
        "town",
        "--estimator",
        FOREST,
    ]
    environment = {**os.environ, "LOKY_MAX_CPU_COUNT": "1"}
    options = {"cwd": tmp_path, "env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = subprocess.Popen([*command, "--out", "killed"], start_new_session=True, **options)
    store = tmp_path / "killed" / "audit.sqlite"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and started.poll() is None and n_chunks(store) < 1:
        time.sleep(0.01)
    os.killpg(started.pid, signal.SIGKILL)
    started.communicate()
    assert started.returncode == -signal.SIGKILL
    kept = keys(store)
    assert kept
    again = subprocess.run([*command, "--out", "killed"], check=True, **options)
    assert "subpop: plan: 600 rows" in again.stderr
    assert kept <= keys(store)
    whole = subprocess.run([*command, "--out", "whole"], check=True, **options)
    assert "the test labels are your own and may be poisoned" in " ".join(whole.stdout.split())
    one, other = (json.loads((tmp_path / name / "audit.json").read_text()) for name in ("killed", "whole"))
    assert one["groups"] == other["groups"]
    assert one["filters"] == other["filters"]
    assert n_chunks(store) == n_chunks(tmp_path / "whole" / "audit.sqlite")


def keys(store):
    with sqlite3.connect(f"file:{store}?mode=ro", uri=True, timeout=30) as connection:
        return {key for (key,) in connection.execute("SELECT key FROM chunks")}


def n_chunks(store):
    try:
        return len(keys(store))
    except sqlite3.Error:
        return 0


# --- what is said -----------------------------------------------------------------------------------------------------


def test_a_class_with_few_different_inputs_is_named(tmp_path):
    """It was called by its position, and the message named an argument that an audit does not have."""
    frame = pd.DataFrame({"age": [20, 21, 22, 23, 24, 25] * 60, "paid": ["no", "no", "yes", "yes", "yes", "no"] * 60})
    with pytest.raises(BadInput, match="class no has 3 different inputs, fewer than the 5 folds"):
        subpop.audit(frame, "paid", groups=["age"], store=":memory:")


def test_words_and_files(found, tmp_path):
    for sentence in (
        "may be poisoned. Damage is measured for the attack listed",
        "a lower bound",
        "only a certificate is an upper bound",
        "The absence of an alarm does not prove that the data is clean",
        "Your single model has no bound",
    ):
        assert sentence in found.words
    found.save(tmp_path / "new" / "folder")
    text, page = ((tmp_path / "new" / "folder" / name).read_text() for name in ("README.md", "index.html"))
    assert found.words.split(":")[0] in text
    assert found.words.split(":")[0] in page
    assert "by: the columns that make the group" in page
    assert "left out: time" in text
    assert "left out: time" in page
    assert "left out: time" not in result_of(("north", 0.2, 0.05)).to_markdown(), "it explains a column that is not there"
    assert "src=" not in page.replace("src=data:", "") or "http" not in page.split("<main>")[1].split("<script")[0]
    read = json.loads((tmp_path / "new" / "folder" / "audit.json").read_text())
    assert read["columns"] == dict(COLUMNS)
    assert len(read["groups"]) == len(found.groups)
    assert "rows" not in read
    for name in (text, page, json.dumps(read)):
        assert "tiny" not in name
    assert "town=north" in page


def test_rows_are_named_only_if_asked_for(found):
    assert "Rows whose labels" not in found.to_markdown()
    assert "Rows whose labels" in found.to_markdown(with_rows=True)
    rows = json.loads(found.to_json(with_rows=True))["rows"]
    frame = people()
    assert all(frame["paid"][row["position"]] == row["label"] for row in rows)
    probabilities = [row["probability_of_label"] for row in rows]
    assert probabilities == sorted(probabilities)


def test_groups_are_compared_for_fairness(found):
    fairness = found.fairness.set_index("column")
    assert set(fairness.index) == {"town", "sex"}
    assert fairness.loc["town", "equalised_odds_difference"] > fairness.loc["sex", "equalised_odds_difference"]


def test_who_pays_for_filters(found):
    assert set(found.filters["filter"]) >= {"confident_learning", "trim"}
    assert found.filters.set_index("filter").loc["trim", "told"] == "6 poison rows (assumed)"
    assert {"deleted_trim", "deleted_confident_learning"} <= set(found.groups.columns)
    share = found.groups.set_index("group")["deleted_confident_learning"]
    assert share["town=north"] > share["town=south"]


def test_a_group_is_a_set_of_rows_of_its_cell():
    data = load_dataset("digits")
    attacks = Attacks(Experiment.on(NoStore()), "digits", "logistic_regression", data)
    rows = np.flatnonzero(data.annotations["digit"] == 3)
    target = attacks.target(Group("digit=3", rows, "digit"))
    assert (target.name, target.n_train + target.n_aux + target.n_test) == ("digit=3", len(rows))


def test_the_summary_fits_the_terminal_and_names_the_pages(tmp_path, capsys, monkeypatch):
    from subpop.session.cli import main

    frame = people(300)
    frame["town"] = [f"{town} by the sea and the mountains with a very long name of its own" for town in frame["town"]]
    frame.to_csv(tmp_path / "people.csv", index=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    command = ["audit", "people.csv", "--label", "paid", "--groups", "town"]
    assert main([*command, "--out", "pages"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "m50" in out
    assert "pages/index.html and pages/README.md" in out
    assert "<details>" not in out
    assert main([*command, "--store", "pages/audit.sqlite", "--with-rows"]) == 0  # a pipe had got 800 lines of markdown
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert len(out.splitlines()) < 80
    assert "probability\n" in out
    assert "--out DIR --store pages/audit.sqlite writes pages" in " ".join(out.split())


def row_of(name, damage, width):
    texts = {"group": name, "grouping": "town", "verdict": "ordinary", "not_attacked": ""}
    counts = {"rows": 90, "test_rows": 30, "errors": 18, "poison_rows_1": 31, "m50": 12, "m50_is_more": 0, "seconds_left": 0}
    shares = {"accuracy": 0.8, "accuracy_low": 0.7, "accuracy_high": 0.9, "clean_accuracy": 0.75}
    return {**texts, **counts, **shares, "damage_1": damage, "half_width_1": width}


def result_of(*rows):
    groups = pd.DataFrame([row_of(*row) for row in rows]).reindex(columns=COLUMNS)
    facts = Facts("my.csv", ("no", "yes"), "tree", (), 270, 90, 5.0, 1.0, None)
    right = np.arange(270) < 200
    return Audit(groups, words_of(facts, groups, None, None, right, 0.5), facts={"rows": 270, "training_rows": 90})


def test_the_worst_group_is_one_whose_damage_is_beyond_its_uncertainty():
    """The headline had named education=9th with 27 points and an interval of 41."""
    found = result_of(("small", 0.27, 0.41), ("north", 0.2, 0.05), ("south", 0.1, 0.04))
    words = "north loses most of the 2 of 3 groups whose damage exceeds its uncertainty: 20 points of accuracy (± 5) from 31 rows"
    assert words in found.words
    title = "The 3 of 3 groups that lose most at alpha 1; the damage of the first 2 exceeds its uncertainty"
    assert f"## {title}\n" in found.to_markdown()
    text = text_page(found, 200)
    assert title in text
    assert text.index("\nnorth") < text.index("\nsouth") < text.index("\nsmall")
    one = result_of(("small", 0.27, 0.41), ("south", 0.1, 0.04))
    words = "south is the only one of 2 groups whose damage exceeds its uncertainty: it loses 10 points of accuracy (± 4) from"
    assert words in one.words
    assert "; the damage of only the first exceeds its uncertainty" in text_page(one, 200)
    none = result_of(("small", 0.27, 0.41), ("south", 0.03, 0.04))
    words = "the damage of none of 2 groups can be told apart from none; the largest is 27 points of accuracy (± 41), of small"
    assert words in none.words
    assert "the damage of none of them exceeds its uncertainty" in text_page(none, 200)
    assert "(alpha 1), north loses 20 points of accuracy (± 5) from 31 rows." in result_of(("north", 0.2, 0.05)).words


def test_the_first_screen_answers_how_bad_it_is_and_what_helps():
    """It began with what to beware of, and did not say from how many rows a group loses so much."""
    found = result_of(("north", 0.2, 0.05), ("south", 0.1, 0.04))
    screen = text_page(found, 80)
    order = [
        "How bad is it?",
        "What helps? Your single model has no bound.",
        "m50",
        "\nnorth ",
        "Read with care: the test labels",
    ]
    places = [screen.index(words) for words in order]
    assert places == sorted(places)
    assert screen.splitlines()[0].startswith("How bad is it? With a mislabelled row")
    assert "75.0   20.0 ± 5.0" in screen
    assert screen.split("\nnorth ")[1].split("\n")[0].split()[-2:] == ["31", "12"], "damage, from 31 rows, m50"
    searched = found.groups.assign(m50=1208.0, m50_is_more=1.0)
    facts = Facts("my.csv", ("no", "yes"), "tree", (), 270, 90, 5.0, 1.0, None)
    words = words_of(facts, searched, None, None, np.arange(270) < 200, 0.5)
    assert "All rows that the attacker has of a group, mislabelled, do not bring any of the 2 groups that were searched" in words
    assert "> 1,208" in text_page(replace(found, groups=searched), 80)


def test_the_summary_says_why_there_is_no_bound():
    """It said that the model has none, and of other models nothing: neither that there was no time nor that rows are too many."""
    note = "there is no bound on label flips: 33,333 training rows and 33,334 test rows are too many"
    facts = Facts("my.csv", ("no", "yes"), "tree", ("a note", note), 270, 90, 5.0, 1.0, None)
    words = words_of(facts, result_of(("north", 0.2, 0.05)).groups, None, None, np.arange(270) < 200, 0.5)
    assert "There was no time for a bound on insertions for other models. There is no bound on label flips: 33,333" in words


def test_groups_without_a_damage_are_not_among_those_that_lose_most():
    found = result_of(("north", 0.2, 0.05), ("west", math.nan, math.nan))
    assert "The 1 of 2 groups that lose most" in text_page(found, 200)
    assert "\nwest" not in text_page(found, 200)
    assert "The 1 largest of 1 groups" in text_page(result_of(("west", math.nan, math.nan)), 200)


def test_an_estimator_that_has_learned_nothing_is_said():
    """With 100 rows of which half have one label, up to 60 right ones are chance (binomial, 97.5 %)."""
    facts = Facts("my.csv", ("no", "yes"), "tree", (), 100, 30, 5.0, 1.0, None)
    groups = result_of(("north", 0.2, 0.05)).groups
    for n_right, is_told in ((60, True), (61, False)):
        words = words_of(facts, groups, None, None, np.arange(100) < n_right, 0.5)
        assert f"right about {n_right}.0 % of the 100 rows" in words
        assert ("(50.0 %): it has learned next to nothing" in words) == is_told


def test_the_share_of_right_rows_is_of_all_rows(found):
    """It had been that of the groups by the first column, without those of too few rows."""
    data = read_table(people(), "paid").dataset()
    folds = out_of_fold(make_victim("logistic_regression"), data.x, data.y, 2)
    assert f"is right about {100 * (folds.predicted == data.y).mean():.1f} % of the 900 rows" in found.words


def test_the_accuracy_from_which_damage_starts_is_shown(found):
    groups = found.groups.set_index("group")
    table = read_table(people(), "paid").dataset()
    attacks = Attacks(Experiment.on(NoStore()), "own data", "logistic_regression", table)
    attacks.experiment.context.supply(attacks.plain, table)
    target = attacks.target(Group("town=north", np.flatnonzero(people()["town"] == "north"), "town"))
    cell = attacks.cell("town", 1.0)
    row = next(row for row in attacks.experiment.run(cell).table if row["subpopulation"] == target.name)
    assert groups.loc["town=north", "clean_accuracy"] == row["target_clean_accuracy"]
    assert groups.loc["town=north", "damage_1"] == pytest.approx(row["target_damage"])
    assert f"| {100 * row['target_clean_accuracy']:.1f} |" in " ".join(found.to_markdown().split())
    assert "from which damage and m50 start" in found.to_markdown()


def test_pages_say_which_groups_are_too_small_to_be_attacked_and_why(tmp_path, capsys):
    """A pair of columns with 39 test rows had a dash without a reason."""
    found = subpop.audit(people(300), "paid", groups=["town", "sex"], store=":memory:")
    groups = found.groups.set_index("group")
    small = groups[groups["not_attacked"] != ""]
    assert len(small) >= 2
    for name, row in small.iterrows():
        assert math.isnan(row["damage_1"])
        assert row["not_attacked"] == f"{row['test_rows']} of {40 if ', ' in name else 10} test rows"
        assert row["not_attacked"] in found.to_markdown()
    assert groups.loc[groups["not_attacked"] == "", "damage_1"].notna().all()
    needed = "a group needs 5 rows in the attacker's data (D_aux) and 10 test rows, or 40 if it combines several columns"
    assert needed in capsys.readouterr().err
    assert f"{len(small)} of {len(groups)} groups are too small to be attacked: {needed}." in found.words
    assert "1 of the 4 values of town has fewer than 10 rows and is left out." in found.words
    found.save(tmp_path)
    assert f"It is not attacked: it has {small['not_attacked'].iloc[0]}." in (tmp_path / "index.html").read_text()


def test_bad_input_is_a_sentence_and_status_2(tmp_path, capsys):
    from subpop.session.cli import main

    people(60).to_csv(tmp_path / "people.csv", index=False)
    assert main(["audit", str(tmp_path / "people.csv"), "--label", "pays", "--store", ":memory:"]) == 2
    assert "did you mean pay" in capsys.readouterr().err
    assert main(["audit", str(tmp_path / "people.csv"), "--label", "paid", "--groups", "paid", "--store", ":memory:"]) == 2
    assert "groups=paid is the label" in capsys.readouterr().err
    for budget in (["--budget", "-5m"], ["--budget=-5m"]):  # argparse had taken the first for an option of its own
        assert main(["audit", str(tmp_path / "people.csv"), "--label", "paid", *budget, "--store", ":memory:"]) == 2
        assert "--budget -5m is not a duration" in capsys.readouterr().err
