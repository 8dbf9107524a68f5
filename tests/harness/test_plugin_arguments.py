"""Arguments in brackets after a plug-in's name."""

import pytest
from small_projects import parse_defense

from subpop import BadInput, grid
from subpop.experiments.experiment import Experiment
from subpop.harness.plugins import load
from subpop.runtime.no_store import NoStore

TUNABLE = """
import numpy as np
from subpop import Defended

def tunable(train, fit, know, *, seed, share=0.5, side="low"):
    keep = np.arange(len(train)) >= round(share * len(train))
    return Defended(fit(train[keep]), keep)

def needs_one(train, fit, know, share, *, seed):
    return Defended(fit(train))

tunable.max_fits = 7
"""


def test_a_defense_with_arguments(tmp_path):
    (tmp_path / "tunable.py").write_text(TUNABLE)
    plain, few = (parse_defense(f"tunable.py:tunable{call}", tmp_path) for call in ("", "(side='low', share=0.1)"))
    assert (plain.name, few.name) == ("tunable", "tunable(share=0.1, side='low')")
    assert (few.function, few.max_fits, few.arguments) == ("tunable", 7, "(share=0.1, side='low')")
    assert hash(parse_defense("tunable.py:tunable(share=[1])", tmp_path))
    assert load(few).keywords == {"share": 0.1, "side": "low"}
    assert parse_defense("tunable.py:needs_one(share=1)", tmp_path).name == "tunable.needs_one(share=1)"
    for call, said in (
        ("(0.1)", "write each by its name"),
        ("(shar=1)", "no argument 'shar' .* it has share, side"),
        ("(seed=1)", "seed"),
    ):
        with pytest.raises(BadInput, match=said):
            parse_defense(f"tunable.py:tunable{call}", tmp_path)
    with pytest.raises(BadInput, match="cannot be called as needs_one"):
        parse_defense("tunable.py:needs_one", tmp_path)


def test_arguments_of_a_defense_change_what_it_does_and_where_it_is_stored(tmp_path):
    (tmp_path / "tunable.py").write_text(TUNABLE)
    specs = [parse_defense(f"tunable.py:tunable(share={share})", tmp_path) for share in (0.1, 0.25)]
    experiment = Experiment.on(NoStore(), plugins={spec.name: spec for spec in specs})
    names = {"stem": "s", "tier": "embedded", "dataset": "mixture", "victim": "logistic_regression", "partition": "feature_match"}
    cells = [grid(rate=1.0, n_seeds=1, defense=spec.name, **names)[0] for spec in specs]
    trials = experiment.list_trials(cells[0])[:1]
    removed = [experiment.run_chunk(cell, trials)[0].arrays["removed_per_class"].sum() for cell in cells]
    assert 0 < removed[0] < removed[1]
    assert experiment.chunk_key(cells[0], trials) != experiment.chunk_key(cells[1], trials)
