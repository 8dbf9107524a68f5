"""Probes of plug-in defenses: each known cheat is flagged by the probe that is meant for it, and honest defenses are not."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from probe_rates import PLUGINS, cell_of
from scipy.spatial.distance import pdist
from small_projects import parse_defense

from subpop.experiments.experiment import Experiment
from subpop.experiments.integrity import inspector as inspecting
from subpop.experiments.integrity.canaries import both_ways
from subpop.experiments.integrity.canary_rows import candidates, choose_canaries, far_rows
from subpop.experiments.integrity.cost import cost_to_others
from subpop.experiments.integrity.draws import Score, compare
from subpop.experiments.integrity.findings import (
    CLEAN,
    DECLARED,
    FLAG,
    LEVELS,
    NOT_RUN,
    PASSED,
    UNCHECKED,
    VARIES,
    Finding,
    column,
)
from subpop.experiments.integrity.inspector import Inspector, Probes
from subpop.experiments.integrity.learners import answers_of_learners, flat_inputs
from subpop.experiments.integrity.mixtures import above_bayes, bayes_accuracy, secret_dataset, spec_for
from subpop.experiments.integrity.moved import draw_moves, grid_of
from subpop.experiments.integrity.views import turned
from subpop.harness.batching import DefenseError
from subpop.runtime.no_store import NoStore
from subpop.runtime.store import Store
from subpop.session.run import Run
from subpop.types import Dataset

HONEST, CHEATS = PLUGINS / "honest", PLUGINS / "cheats"


@pytest.fixture(autouse=True)
def same_secrets(monkeypatch):
    """The secrets of probes are the same in every run of these tests, lest one fail by chance."""
    generator = np.random.default_rng(20261128)
    monkeypatch.setattr(inspecting, "os", SimpleNamespace(urandom=generator.bytes))


def probes_of(path, dataset="digits", **changes):
    """The probes of a plug-in after its cell has run: a few trials of a small cell."""
    spec = parse_defense(f"{path}:{Path(path).stem}", Path("/"))
    experiment = Experiment.on(NoStore(), plugins={spec.name: spec})
    cell = cell_of(spec.name, dataset, n_seeds=1, **changes)
    inspector = Inspector(experiment)
    return Probes(inspector, cell, experiment.trials(cell)[0])


def status_of(findings, probe):
    return next(finding.status for finding in findings if finding.probe == probe)


# --- what the column says ---------------------------------------------------------------------------------------------


def test_the_levels_of_all_tests_add_up_to_one_in_a_thousand():
    assert sum(LEVELS.values()) == pytest.approx(1e-3)


def test_words_of_the_column():
    passed, flag, varies = Finding("a", PASSED), Finding("b", FLAG, "figures", claim="cheats"), Finding("c", VARIES)
    assert column([passed]) == CLEAN
    assert column([passed, flag, flag]) == "flag: cheats"
    assert column([passed, varies]).startswith("flag: two identical replays differ")
    assert column([passed, varies], deterministic=False) == DECLARED
    assert column([passed], deterministic=False) == DECLARED
    assert column([passed, flag], deterministic=False) == "flag: cheats"
    assert column([Finding("d", NOT_RUN)]) == UNCHECKED


# --- record and replay ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["shared_rows", "shared_quietly", "shared_file"])
def test_what_outlives_a_trial_is_flagged(name):
    (found,) = probes_of(CHEATS / f"{name}.py").findings("replay")
    assert found.status == FLAG
    assert found.claim == "something outlives a trial"


@pytest.mark.parametrize("name", ["standardise", "forest_model"])
def test_a_model_that_is_more_sensitive_than_the_victim_has_looked_nothing_up(name):
    """Standardised columns blow a small move up: of honest defenses, this one was once flagged in every run."""
    assert {found.status for found in probes_of(HONEST / f"{name}.py").findings("moved test rows")} == {PASSED}


@pytest.mark.parametrize("name", ["trimmed_loss", "forest_model", "partitions"])
def test_an_honest_defense_ends_the_same_way_alone(name):
    (found,) = probes_of(HONEST / f"{name}.py").findings("replay")
    assert found.status == PASSED, found


@pytest.mark.parametrize("chance", ["np.random.default_rng()", "np.random", "__import__('random')"])
def test_chance_is_not_cheating(tmp_path, chance):
    """Also that of a global generator, which all children of one fork server would otherwise share."""
    path = tmp_path / "plugin.py"
    path.write_text(
        "import numpy as np\nfrom subpop import Defended\n\n\ndef plugin(train, fit, know, *, seed):\n"
        f"    return Defended(fit(train[np.array([{chance}.random() for _ in range(len(train))]) > .1]))\n"
    )
    (found,) = probes_of(path).findings("replay")
    assert found.status == VARIES, found


# --- label canaries ---------------------------------------------------------------------------------------------------


def test_five_learners_that_never_saw_a_canary_call_its_flipped_label_right():
    probes = probes_of(HONEST / "undefended.py")
    stage, generator = probes.stage, np.random.default_rng(0)
    flat, victim = flat_inputs(stage.pool.x, 0), lambda rows: inspecting.answers_of_victim(probes.experiment, probes.cell, rows)
    name = stage.attacked[0]
    chosen = choose_canaries(stage, name, flat, candidates(stage, flat, generator), victim, generator)
    assert len(chosen.rows) > 3
    assert len(np.unique(chosen.train)) == len(chosen.train) == stage.pool.n_train
    assert not np.isin(chosen.train, stage.aux_members(name)).any()
    assert far_rows(stage, name, flat)[chosen.rows].all()
    assert (chosen.labels != stage.pool.y[chosen.rows]).all()
    others = np.setdiff1d(chosen.train, chosen.rows)
    answers = answers_of_learners(flat[others], stage.pool.y[others], flat[chosen.rows], 1)
    assert (answers == chosen.labels).mean() > 0.9  # chosen with another seed of the forest, and without a few spare rows


def test_candidates_are_drawn_again_where_they_leave_the_test_without_power(monkeypatch):
    probes = probes_of(HONEST / "undefended.py")
    good, drawn = probes.inspector._canary_sets(probes.cell), []

    def draw(self, cell):
        drawn.append(cell)
        return [] if len(drawn) < 3 else good

    monkeypatch.setattr(Inspector, "_canary_sets", draw)
    assert probes.inspector.canary_sets(probes.cell) is good
    assert len(drawn) == 3


CAUGHT = {
    "true_labels": ("label canaries", "label canaries: training"),
    "repaired_labels": ("label canaries", "label canaries: training"),
    "new_inputs": ("label canaries", "label canaries: training"),
    "own_learner": ("label canaries", "label canaries: answers"),
    "own_rows": ("label canaries", "membership"),
    "known_answers": ("moved test rows", "moved test rows: one step"),
    "nearly_known_answers": ("label canaries", "label canaries: answers"),
    "public_draw": ("secret poison", "secret poison"),
}
UNSEEN = {
    "count_must_match": "secret view",
    "subpopulation_lookup": "secret view",
    "declared_chance": "secret view",
    "class_surplus": "cost to others",
}
"""Cheats that no probe found until these two were added."""


@pytest.mark.parametrize("name", CAUGHT)
def test_each_probe_flags_the_cheat_that_it_is_meant_for(name):
    probe, test = CAUGHT[name]
    assert status_of(probes_of(CHEATS / f"{name}.py").findings(probe), test) == FLAG


@pytest.mark.parametrize("name", UNSEEN)
def test_cheats_that_once_won_without_a_flag(name):
    assert status_of(probes_of(PLUGINS / "unseen" / f"{name}.py").findings(UNSEEN[name]), UNSEEN[name]) == FLAG


def test_a_defense_may_lose_some_rows_for_the_target():
    """All ten rows of the target are attacked, and `won` of them won back."""
    target, clean = np.arange(100) < 10, np.ones(100, bool)
    for won, lost, status in ((10, 0, PASSED), (10, 9, PASSED), (10, 11, FLAG), (5, 11, FLAG), (4, 40, PASSED), (0, 90, PASSED)):
        after = (np.arange(100) < won) | (~target & (np.arange(100) < 100 - lost))
        assert cost_to_others([target], [clean], [~target], [after]).status == status, (won, lost)


@pytest.mark.parametrize("shape", [(20, 3), (20, 1, 4, 4)])
def test_turning_keeps_distances_and_range(shape):
    generator = np.random.default_rng(0)
    x = (generator.random(shape) * 255).astype(np.uint8 if len(shape) == 4 else np.float32)
    data = Dataset("toy", x, np.arange(20) % 2, 2)
    seen = turned(data, np.random.default_rng(3)).x
    flat, other = (np.asarray(rows, float).reshape(20, -1) for rows in (x, seen))
    assert not np.array_equal(x, seen)
    assert np.allclose(pdist(flat), pdist(other), atol=1e-3)
    assert 0 <= other.min() <= other.max() <= 255


@pytest.mark.parametrize("name", ["trimmed_loss", "knn_model"])
def test_honest_defenses_pass(name):
    probes = probes_of(HONEST / f"{name}.py")
    found = [finding for probe in probes.probes for finding in probes.findings(probe)]
    assert {finding.status for finding in found} <= {PASSED, NOT_RUN}
    assert sum(finding.status == PASSED for finding in found) >= 6


def test_a_defense_that_fails_in_a_probe_is_flagged(monkeypatch):
    probes = probes_of(HONEST / "undefended.py")

    def fails(generator):
        raise DefenseError(0, "no")

    monkeypatch.setitem(probes.probes, "replay", fails)
    (found,) = probes.findings("replay")
    assert found.status == FLAG
    assert found.claim == "fails in a probe (replay)"


# --- moved test rows --------------------------------------------------------------------------------------------------


def test_the_grid_of_the_data():
    assert grid_of(np.zeros((2, 1, 3, 3), np.uint8)) == 1
    assert grid_of(np.array([[0, 0.0625], [0.25, 1]], np.float32)) == 0.0625
    assert grid_of(np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)) is None


@pytest.mark.parametrize("kind", ["pixels", "grid", "float"])
def test_moved_rows_keep_their_number_their_type_and_their_range(kind):
    rng = np.random.default_rng(0)
    x = {
        "pixels": rng.integers(0, 256, (40, 1, 4, 4)).astype(np.uint8),
        "grid": (rng.integers(0, 17, (40, 8)) / 16).astype(np.float32),
        "float": rng.normal(size=(40, 5)).astype(np.float32),
    }[kind]
    moves = draw_moves(x, np.arange(10), grid_of(x), rng)
    assert (moves.step ^ moves.half).all()
    assert moves.step[:10].sum() == moves.half[:10].sum() == 5
    one, other = (side.astype(float) for side in moves.sides)
    assert np.allclose(one - x, x - other, atol=1e-6)  # to either side
    for side in moves.sides:
        assert side.shape == x.shape
        assert side.dtype == x.dtype
        changed = (side != x).reshape(40, -1)
        assert (changed[moves.step].sum(axis=1) <= (x[0].size if kind == "float" else 1)).all()
        assert changed.any(axis=1).mean() > 0.9  # a row at the edge of the range has no room
        assert np.abs(side[moves.step].astype(float) - x[moves.step]).max() <= {"pixels": 1, "grid": 1 / 16, "float": 1e-5}[kind]
        assert x.min() - 1e-5 <= side.min()
        assert side.max() <= x.max() + 1e-5


# --- secret draws -----------------------------------------------------------------------------------------------------


def scores(share, n=10, noise=0.0, seed=0):
    """Made-up trials of 40 test rows: a third is hurt, and a share of that is repaired."""
    rng = np.random.default_rng(seed)
    damage = (rng.random((n, 40)) < 0.33).astype(float)
    return [Score(d, d * (rng.random(40) < np.clip(share + noise * rng.normal(), 0, 1))) for d in damage]


def test_better_on_the_public_draw_than_on_a_secret_one_is_flagged():
    assert compare("secret poison", "", scores(1.0), scores(0.0), paired=True).status == FLAG
    assert compare("secret mixture: score", "", scores(1.0), scores(0.2, seed=1), paired=False).status == FLAG
    assert compare("secret poison", "", scores(0.0), scores(1.0), paired=True).status == PASSED
    assert compare("secret poison", "", scores(1.0, n=3), scores(0.0, n=3), paired=True).status == NOT_RUN
    nothing = [Score(np.zeros(40), np.zeros(40))] * 10
    assert compare("secret poison", "", nothing, nothing, paired=True).status == NOT_RUN


def test_equal_scores_have_uniform_p_values_at_most():
    """Of 400 pairs of draws with the same expected repair, at most as many fall below a level as it says."""
    pairs = [(scores(0.5, noise=0.3, seed=2 * i), scores(0.5, noise=0.3, seed=2 * i + 1)) for i in range(400)]
    p_values = np.array([compare("secret poison", "", *pair, paired=True).p_value for pair in pairs])
    assert (p_values < 0.05).sum() <= 31  # 20 expected; the 99 % point of the binomial
    assert (p_values < 0.01).sum() <= 10


def test_nobody_is_right_more_often_than_bayes():
    spec = spec_for("digits", 5)
    data = secret_dataset("digits", spec)
    component = data.annotations["component"]
    majority = np.array([np.bincount(data.y[component == c], minlength=2).argmax() for c in range(spec.n_subpopulations)])
    bayes = majority[component] == data.y
    assert bayes.mean() == pytest.approx(bayes_accuracy(spec))
    assert above_bayes(bayes[None], spec).status == PASSED
    assert above_bayes(np.ones_like(bayes)[None], spec).status == FLAG


# --- the inspector ----------------------------------------------------------------------------------------------------


def test_a_full_store_shows_the_same_findings_without_a_child(tmp_path, monkeypatch):
    spec = parse_defense(f"{HONEST / 'undefended.py'}:undefended", Path("/"))
    cell = cell_of(spec.name, n_seeds=1)

    def inspected():
        with Store(tmp_path / "store.sqlite") as store:
            experiment = Experiment.on(store, plugins={spec.name: spec})
            return Run(experiment, store, tmp_path, inspector=Inspector(experiment)).result(cell)

    first = inspected()
    assert first.integrity == CLEAN
    assert "replay: passed" in first.probes
    monkeypatch.setattr("subpop.harness.sandbox.run_in_child", None)
    monkeypatch.setattr(Inspector, "probe", None)
    again = inspected()
    assert (again.integrity, again.probes) == (first.integrity, first.probes)


def test_probes_stop_when_their_time_is_used_up():
    probes = probes_of(HONEST / "undefended.py")
    inspector = Inspector(probes.experiment, share=0.0, grace=0.0)
    found = inspector.inspect(probes.cell)
    assert found.column == UNCHECKED
    assert {finding.words for finding in found.findings} == {"its time was used up"}


def test_secrets_differ_and_are_kept_with_the_findings(tmp_path):
    spec = parse_defense(f"{HONEST / 'undefended.py'}:undefended", Path("/"))
    with Store(tmp_path / "store.sqlite") as store:
        experiment = Experiment.on(store, plugins={spec.name: spec})
        kept = []
        put = store.put_arrays
        store.put_arrays = lambda key, arrays, **how: (kept.append(arrays), put(key, arrays, **how))
        Inspector(experiment, grace=60.0).inspect(cell_of(spec.name, n_seeds=1))
    findings = json.loads(kept[-1]["findings"].tobytes())
    secrets = {finding["secret"] for finding in findings if finding["secret"]}
    assert len(secrets) == 7  # one a probe


# --- hidden files -----------------------------------------------------------------------------------------------------

HIDDEN = """
import os, sqlite3, sys, time
from pathlib import Path
from subpop.harness.hiding import Hiding

old, young, source, new = (Path(sys.argv[1]) / name for name in ("old", "young", "source.py", "new"))
Hiding(float(sys.argv[2]), source)
assert old.read_text() == source.read_text() == "text"
new.write_text("own")
assert new.read_text() == "own"
with young.open("a") as file:
    file.write("more")
for read in (young.read_text, lambda: os.open(young, os.O_RDWR), lambda: sqlite3.connect(young)):
    try:
        read()
    except FileNotFoundError:
        continue
    raise SystemExit("a young file was read")
young.write_text("anew")
assert young.read_text() == "anew"
assert Path("/proc/self/status").read_text() if os.path.exists("/proc/self/status") else True
import json.tool  # bytecode may be young; the module is not
"""


def test_young_files_are_hidden_until_they_are_written_anew(tmp_path):
    for name in ("old", "young", "source.py"):
        (tmp_path / name).write_text("text")
    os.utime(tmp_path / "old", (1e9, 1e9))
    command = [sys.executable, "-c", HIDDEN, str(tmp_path), str(time.time() - 60)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_defense_that_favours_a_class_does_not_look_labels_up():
    """One that balances classes removed 16 of 20 canaries only when flipped, since nearly all went to the larger class."""
    assert both_ways((16, 0), (0, 1)) > 0.1
    assert both_ways((16, 0), (0, 0)) == 1
    assert both_ways((9, 0), (9, 0)) == pytest.approx(0.5**18, rel=1e-6)
    assert both_ways((12, 0), (4, 0)) == pytest.approx(0.75**12 * 0.25**4, rel=1e-3)
    assert both_ways((5, 5), (5, 5)) > 0.5


def test_the_sign_test_holds_its_level_whatever_class_is_favoured():
    rng = np.random.default_rng(0)
    for q in (0.1, 0.5, 0.9):
        ups = np.stack([rng.binomial(8, q, 100), rng.binomial(5, 1 - q, 100)], 1)
        p_values = np.array([both_ways((int(a), 8 - int(a)), (int(b), 5 - int(b))) for a, b in ups])
        assert (p_values < 0.05).sum() <= 11  # 5 expected at most; the 99 % point is 11
