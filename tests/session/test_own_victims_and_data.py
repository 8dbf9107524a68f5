"""`--victim` and `--dataset`: which cells run, what a loader may return, and what a broken one costs."""

import json
import os
import re
import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest

import subpop
from subpop import BadInput, Cell, Dataset, grid
from subpop.experiments.experiment import Experiment
from subpop.harness.plugins import DatasetSpec, parse_plugin
from subpop.runtime.no_store import NoStore
from subpop.session.replaced_cells import Replacements
from subpop.session.user_data import dataset_of, load_user_data
from subpop.victims import OF_NUMBERS, OF_PICTURES, VICTIMS, make_victim
from subpop.victims.bert_last_layer import TextVictim
from subpop.victims.text_linear import TextLinear
from tests.small_projects import ROOT, make_project, run

MINE = '''
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin


class Means(ClassifierMixin, BaseEstimator):
    """The class whose mean is nearest; it is defined in this file, which no other process can import."""

    def __init__(self, power=2.0):
        self.power = power

    def fit(self, x, y):
        self.classes_ = np.unique(y)
        self.means_ = np.stack([x[y == c].mean(axis=0) for c in self.classes_])
        return self

    def predict(self, x):
        far = (np.abs(x[:, None] - self.means_) ** self.power).sum(axis=-1)
        return self.classes_[far.argmin(axis=1)]


def model(power=2.0):
    return Means(power)
'''
TABLES = """
import numpy as np
import pandas as pd


def load(n=600):
    rng = np.random.default_rng(0)
    team, y = rng.integers(0, 3, n), rng.integers(0, 2, n)
    x = rng.normal(size=(n, 4)) + 2 * y[:, None] * np.eye(4)[team]
    return x, np.where(y, "paid", "not"), {"team": team}


def table(n=600):
    x, y, groups = load(n)
    frame = pd.DataFrame(x, columns=list("abcd")).assign(city=np.array(["Bern", "Oslo", "Rome"])[groups["team"]], loan=y)
    return frame, "loan", ["city"]


def drop(train, fit, know, *, seed):
    from subpop import Defended

    keep = np.random.default_rng(seed).random(len(train)) > 0.1
    return Defended(fit(train[keep]), keep)
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "tables.py").write_text(TABLES)  # without scikit-learn, which each process would import
    monkeypatch.chdir(tmp_path)
    return tmp_path


def loader(folder, text, name="f"):
    (folder / "own_data.py").write_text(textwrap.dedent(text))
    return parse_plugin(DatasetSpec, f"own_data.py:{name}", folder, "--dataset ")


# --- victims ----------------------------------------------------------------------------------------------------------


def test_a_file_names_a_victim_with_arguments(mine):
    """For distances to the power 1 the nearer mean of a row may be another one than for squares."""
    pool = subpop.Pool(np.float32([[0, 0], [3, 3], [3.2, 1]]), np.array([0, 1, 0]), n_train=2, n_classes=2)
    row = np.float32([[0, 3.2]])  # (0, 0): sums 3.2 and 10.24; (3, 3): sums 3.2 and 9.04
    for power, nearest in ((2.0, 1), (0.5, 0)):  # 1.79 and 2.18 for roots
        [model] = make_victim(f"mine.py:model(power={power})").fit_many([pool.clean_job()], [0])
        assert model.predict_proba(row).argmax() == nearest
    [model] = make_victim("mine.py:Means").fit_many([pool.clean_job()], [0])
    assert model.predict_proba(row).argmax() == 1


def test_a_function_may_make_a_victim_that_trains_fleets_itself(mine):
    (mine / "whole.py").write_text("from subpop import make_victim\n\ndef f():\n    return make_victim('logistic_regression')\n")
    assert type(make_victim("whole.py:f")) is type(make_victim("logistic_regression"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("absent.py:model", "there is no file .*absent.py; write package.module:Class or path.py:function"),
        ("mine.py:modle", "mine.py has no modle; did you mean model?"),
        ("mine.py:model(power=x)", "the argument x of .* is not a literal"),
        ("mine.py:model(depth=3)", "no estimator can be made by model.depth=3. .*unexpected keyword"),
        ("broken.py:model", "importing broken.py failed .ZeroDivisionError"),
    ],
)
def test_a_file_that_names_no_victim_is_refused(mine, name, words):
    (mine / "broken.py").write_text("1 / 0")
    with pytest.raises(BadInput, match=words):
        make_victim(name)


def test_every_victim_takes_numbers_or_pictures_or_texts():
    takes_texts = {name for name in VICTIMS if isinstance(VICTIMS[name]("cpu", None), TextVictim | TextLinear)}
    assert sorted([*OF_NUMBERS, *OF_PICTURES, *takes_texts]) == sorted(VICTIMS)


# --- which cells run --------------------------------------------------------------------------------------------------

SUITE = [
    *grid(stem="s", tier="embedded", dataset=["digits", "mixture"], victim="mlp", partition="feature_match", n_attacked=6),
    *grid(stem="s", tier="embedded", dataset="digits_images", victim="conv_net", partition="feature_match"),
    *grid(stem="s", tier="embedded", dataset="reviews", victim="text_linear", partition="cluster_match"),
    *grid(
        stem="s", tier="embedded", dataset="digits", victim="mlp", partition="feature_match", defense="group_dro", n_attacked=6
    ),
]


def data(x, **more):
    return Dataset("mine", x, np.arange(len(x)) % 2, 2, **more)


def test_an_own_victim_takes_the_place_of_those_that_train_on_numbers():
    found = [(cell.dataset, cell.victim, cell.defense) for cell in Replacements("m:F").cells(SUITE)]
    assert found == [("digits", "m:F", "none"), ("mixture", "m:F", "none")]


def test_own_data_takes_the_place_of_all_of_its_kind_once():
    rows = np.zeros((60, 2), np.float32)
    [plain, shaped] = Replacements(data=data(rows, annotations={"g": np.arange(60) % 3})).cells(SUITE)
    assert (plain.dataset, plain.victim, plain.partition, plain.option("n_attacked")) == ("mine", "mlp", "feature_match", "")
    assert shaped.defense == "group_dro"
    few, many = (Replacements(data=data(rows, n_clusters=n)).cells(SUITE)[0] for n in (17, 18))
    assert {cell.partition for cell in (few, many)} == {"cluster_match"}
    assert (few.option("n_attacked"), many.option("n_attacked")) == ("", "6")
    [pictures] = Replacements(data=data(np.zeros((60, 1, 8, 8), np.uint8))).cells(SUITE)
    assert pictures.victim == "conv_net"
    both = Replacements("m:F", data(rows)).cells(SUITE)
    assert [(cell.dataset, cell.victim) for cell in both] == [("mine", "m:F")]


def test_the_options_run_open_suites_with_them_and_nothing_else(mine):
    """The numbers are those of the same cell in this process, on the data as a call of the function gives it."""
    project = make_project(mine)
    done = run(project, "--victim", "mine.py:model(power=1.5)", "--dataset", "tables.py:table", "--defense", "tables.py:drop")
    assert "INTERNALERROR" not in done.stdout
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((project / "runs" / "report" / "results.json").read_text())["cells"]
    found = {(row["rate"], row["defense"]): row for row in rows if row["metric"] == "target_damage_mean"}
    defenses = ["none", "trim", "matched_random_filter:trim", "tables.drop", "matched_random_filter:tables.drop"]
    assert found.keys() == {(rate, defense) for rate in (0.5, 1.0) for defense in defenses}
    assert {row["verdict"] for row in rows} == {"no_reference", "not_gated"}
    assert "Passed" not in done.stdout
    headline = "Not compared: 10 cells were measured, and there are no references for your own code and data."
    assert f"\n{headline}\nAt alpha 1 (1 poison row for each row of a subpopulation), label_flip takes" in done.stdout
    report = project / "runs" / "report"
    for name in ("README.md", "little.md", "details.md", "index.html"):
        text = (report / name).read_text()
        assert headline in text
        assert "Passed" not in text
    assert {(row["dataset"], row["victim"]) for row in found.values()} == {("tables.table", "mine.py:model(power=1.5)")}

    names = {"stem": "little", "tier": "embedded", "dataset": "tables.table", "victim": "mine.py:model(power=1.5)"}
    cell = Cell.of(**names, partition="feature_match", rate=1.0, sampling="distinct", n_seeds=2)
    experiment, space = Experiment.on(NoStore()), {}
    exec(TABLES, space)
    experiment.context.supply(cell, dataset_of(space["table"]()))
    assert found[1.0, "none"]["value"] == experiment.run(cell)["target_damage_mean"] > 0.1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--victim", "absent.py:model"], "--victim 'absent.py:model': there is no file"),
        (["--victim", "mlp"], "--victim 'mlp' names no function"),
        (
            ["--dataset", "mine.py:model(power=1)"],
            "data set mine.model(power=1): Means is not a data set; give",
        ),
        (["--dataset", "tables.py:load(rows=3)"], "'load' in"),
        (["--dataset", "digits.py:digits"], "--dataset digits has the name of a built-in data set"),
    ],
)
def test_options_that_name_nothing_are_one_sentence(mine, options, words):
    project = make_project(mine)
    (mine / "digits.py").write_text("def digits():\n    pass\n")
    done = run(project, *options)
    assert words in done.stderr
    assert done.returncode == 4
    assert "Traceback" not in done.stderr


# --- what a loader may return -----------------------------------------------------------------------------------------

X, Y = np.arange(80.0).reshape(40, 2), np.array(["a", "b"] * 20)
FRAME = pd.DataFrame(X, columns=["p", "q"]).assign(team=["u", "v", "v", "w"] * 10, label=Y)


@pytest.mark.parametrize(
    ("given", "groups"),
    [
        ((X, Y), {}),
        ((X, Y, None), {}),
        ((X, Y, ["u", "v", "v", "w"] * 10), {"group": [0, 1, 1, 2]}),
        ((X, Y, {"team": np.array([7, 8, 8, 9] * 10)}), {"team": [0, 1, 1, 2]}),
        ((X, Y, FRAME[["team"]]), {"team": [0, 1, 1, 2]}),
        ((FRAME, "label"), {}),
        ((FRAME, "label", "team"), {"team": [0, 1, 1, 2]}),
        ((FRAME, "label", ["team"]), {"team": [0, 1, 1, 2]}),
        ((FRAME[["p", "q"]], Y, ["u", "v", "v", "w"] * 10), {"group": [0, 1, 1, 2]}),
    ],
)
def test_groups_are_the_annotations(given, groups):
    found = dataset_of(given)
    assert (len(found.x), found.y.tolist(), found.n_classes, found.words["y"]) == (40, [0, 1] * 20, 2, ("a", "b"))
    assert {name: codes.tolist() for name, codes in found.annotations.items()} == {name: c * 10 for name, c in groups.items()}
    assert found.words.keys() == {"y", *groups}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (FRAME, "DataFrame is not a data set; give a subpop.Dataset, or"),
        ((X,), "tuple is not a data set"),
        ((X, Y[:5]), "y has shape .5,. for 40 rows"),
        ((X, Y, [1, 2, 3]), "group group has shape .3,. for 40 rows"),
        ((X, Y, ["u"] * 40), "group group has one value in all rows"),
        ((FRAME, "lable"), "no column 'lable'; did you mean label"),
        ((FRAME, "label", ["taem"]), "there is no column 'taem'; did you mean team"),
        ((FRAME[["team"]].to_numpy(), Y), "give a pandas frame"),
    ],
)
def test_what_is_no_data_is_refused(given, words):
    with pytest.raises(BadInput, match=words):
        dataset_of(given)


def test_a_data_set_keeps_all_its_fields_on_its_way(mine):
    text = """
        import numpy as np
        from subpop import Dataset

        def f():
            return Dataset("d", np.arange(80, dtype=np.float32).reshape(40, 2), np.arange(40) % 2, 2, {"g": np.arange(40) % 4},
                           np.arange(40) > 29, np.array([f"{i:02}" for i in range(40)]), (10, 12), False, (1, 9.5), 3, 2,
                           ("a note",), words={"g": ("k", "l", "m", "n")})
    """
    found, space = load_user_data(loader(mine, text), 30), {}
    exec(textwrap.dedent(text), space)
    whole = space["f"]()
    for name in ("n_classes", "sizes", "balanced", "group_bounds", "n_clusters", "n_components", "notes", "words", "stratified"):
        assert getattr(found, name) == getattr(whole, name), name
    for name in ("x", "y", "official_test"):
        np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))
        assert getattr(found, name).dtype == getattr(whole, name).dtype
    np.testing.assert_array_equal(found.annotations["g"], whole.annotations["g"])
    assert found.hashes.tolist() == list(range(40))
    assert found.name == "own_data.f"


def test_a_loader_runs_in_another_process_in_the_users_folder_without_his_secrets(mine, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "secret")
    (mine / "rows.csv").write_text("p,q,label\n" + "\n".join(f"{i},{i % 7},{'ab'[i % 2]}" for i in range(60)))
    text = """
        import os
        import pandas as pd

        def f():
            frame = pd.read_csv("rows.csv")
            facts = frame[["p", "q"]].assign(pid=os.getpid(), told=float("MY_TOKEN" in os.environ))
            return facts.to_numpy(), frame["label"]
    """
    here, there = dataset_of(_called(text)).x, load_user_data(loader(mine, text), 60).x
    assert here[0].tolist() == [0, 0, os.getpid(), 1]
    assert there[:, :2].tolist() == here[:, :2].tolist()
    assert there[0, 3] == 0
    assert there[0, 2] != os.getpid()


def _called(text):
    space = {}
    exec(textwrap.dedent(text), space)
    return space["f"]()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("raise KeyError('x')", "data set own_data.f: KeyError: 'x'"),
        ("import os; os._exit(3)", "ended itself with exit code 3"),
        ("raise SystemExit(2)", "SystemExit: 2"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "was ended by SIGSEGV"),
        ("while True: pass", "loading it ran over the limit of 1 s and was stopped"),
        ("pass", "NoneType is not a data set"),
        ("return [[0.0, 1.0]] * 40, [0, 0] * 20", "y has 1 different values"),
        ("return [[0.0, float('nan')]] * 40, [0, 1] * 20", "missing or infinite values, the first is row 0"),
    ],
)
def test_a_failing_loader_is_named_with_its_reason(mine, body, words):
    with pytest.raises(BadInput, match=words):
        load_user_data(loader(mine, f"def f():\n    {body}"), 1 if "while" in body else 30)


def test_groups_of_a_few_rows_are_not_attacked_and_stop_no_run():
    """A group of one row gives no poison row at any rate of a suite, and each cell ended with an error."""
    rng = np.random.default_rng(0)
    x, groups = rng.normal(size=(300, 2)), ["large"] * 150 + ["medium"] * 145 + ["tiny"] * 5
    given = (x, (x[:, 0] > 0).astype(int), rng.permutation(groups))
    results = subpop.measure(given, n_seeds=1, rate=0.5, store=None)
    assert results.subpopulations()["subpopulation"].tolist() == ["group=large", "group=medium"]


def test_subpopulations_are_named_by_the_words_of_the_data(tmp_path):
    """Tables, and the sentence on who pays, said `sex=0,town=1` of a file with Female and Bern."""
    rng = np.random.default_rng(0)
    sex, town = rng.choice(["Female", "Male"], 600), rng.choice(["Bern", "Zug, ZG"], 600)
    frame = pd.DataFrame({"age": rng.normal(size=600), "sex": sex, "town": town, "paid": rng.choice(["no", "yes"], 600)})
    results = subpop.measure((frame, "paid", ["sex", "town"]), rate=1.0, defense=["none", "trim"], n_seeds=1, store=None)
    assert sorted(set(results.subpopulations()["subpopulation"])) == [
        "sex=Female, town=Bern", "sex=Female, town=Zug, ZG", "sex=Male, town=Bern", "sex=Male, town=Zug, ZG",
    ]  # fmt: skip
    results.save(tmp_path)
    pages = [page.read_text() for page in tmp_path.rglob("*") if page.suffix in (".md", ".csv", ".html")]
    assert any("town=Bern" in page for page in pages)
    assert not any("sex=0" in page or "town=1" in page for page in pages)


def test_a_group_that_gives_no_poison_row_is_named():
    """The message said how many rows it has, and not which group it is."""
    x, towns = np.random.default_rng(0).normal(size=(300, 2)), ["Bern", "Oslo"] * 150
    words = "'group=Bern': rate 0.01 of a subpopulation of .* or more, or name fewer annotations in grouped_by"
    with pytest.raises(BadInput, match=words):
        subpop.measure((x, [0, 0, 1] * 100, towns), n_seeds=1, rate=0.01, store=None)


def test_measure_takes_frames_groups_and_loaders(mine):
    places = {"n_seeds": 1, "store": None}
    space = {}
    exec(TABLES, space)
    named, given = (subpop.measure(each, "mine.py:model", **places) for each in ("tables.py:table", space["table"]()))
    assert named.reports[0].cell.dataset == "tables.table"
    assert named.reports[0].cell.partition == "feature_match"
    assert len(named.subpopulations()) == 3
    assert named.subpopulations()["n_train"].tolist() == given.subpopulations()["n_train"].tolist()


# --- subpop check -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (["--victim", "mine.py:model(power=1.0)"], 0, r"ok      costs_little: a fit of 220 rows takes \S+ s"),
        (["--victim", "sklearn.tree:DecisionTreeClassifier(max_depth=3)"], 0, "ok      keeps_its_classes"),
        (["--victim", "tables.py:load"], 1, "failed  can_be_made: tuple gives tuple, which cannot be fitted"),
        (["--dataset", "tables.py:table"], 0, r"ok      has_groups_to_attack: 3 groups of \d+ to \d+ rows in D_aux"),
        (["--dataset", "tables.py:unseeded"], 1, "failed  loads_the_same_twice: loading twice gives two different data sets"),
        (["--dataset", "tables.py:few"], 1, "failed  has_rows_and_labels: data set tables.few: y has shape .2,. for 1 rows"),
        (["--dataset", "absent.py:few"], 2, "--dataset 'absent.py:few': there is no file"),
    ],
)
def test_the_checks_of_a_victim_and_of_a_loader(mine, options, status, words):
    with (mine / "tables.py").open("a") as file:
        file.write("\ndef unseeded():\n    x, y, groups = load()\n    return x + np.random.default_rng().random(x.shape), y\n")
        file.write("\ndef few():\n    return [[0.0]], [0, 1]\n")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "subpop", "check", *options]
    done = subprocess.run(command, cwd=mine, env=environment, capture_output=True, text=True, check=False, timeout=240)
    assert re.search(words, done.stdout + done.stderr), done.stdout + done.stderr
    assert done.returncode == status
    assert "Traceback" not in done.stderr
