"""Keys of stored results cover every module that runs while the result is made, and no more than its own parts."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path

import pytest
from seed_table import all_cells
from small_encoders import save_bert

import subpop
from subpop import victims
from subpop.attacks import ATTACKS
from subpop.datasets import DATASETS
from subpop.datasets.partitions import PARTITIONS
from subpop.defenses import DEFENSES, MATCHED
from subpop.experiments.context import Context
from subpop.experiments.experiment import Experiment
from subpop.experiments.kept_results import kept_result
from subpop.runtime import fingerprint
from subpop.runtime.cell_code import BOOKKEEPING, COMPOSERS, REGISTRIES, code_key, entry_text, modules_in_key
from subpop.runtime.memo import Memo
from subpop.runtime.no_store import NoStore
from subpop.types import Cell, CellResult
from subpop.types.grid import grid
from subpop.types.kinds import KINDS, kind_named
from subpop.victims import VICTIMS

PACKAGE = Path(subpop.__file__).parent
BASE = {"stem": "s", "tier": "embedded", "victim": "logistic_regression", "partition": "feature_match", "rate": 1.0, "n_seeds": 1}
PICTURES = {"dataset": "digits_images", "victim": "conv_net"}
OWN_CELLS = {
    "label_flip_smoothing": {"dataset": "digits", "victim": "last_layer"},
    "fine_pruning": {**PICTURES, "holdout": 0.1},
    "fine_pruning_as_released": {**PICTURES, "holdout": 0.1},
    **{key: {"holdout": 0.1} for key in ["group_roni_with_holdout", "holdout_influence", "holdout_only", "train_and_holdout"]},
}
SEARCHED = {"sampling": "distinct", "protocol": "reserve", "n_attacked": 1, "defense": "dpa(k=7)"}
OWN_ATTACKS = {"best_of_list": SEARCHED, "adaptive": {**SEARCHED, "n_fits": 20}}
TEXTS = {"dataset": "reviews", "victim": "tiny_bert_last_layer"}
NEED_WEIGHTS = {name for name in VICTIMS if name.startswith(("vgg16", "bert", "minilm"))}
"""Victims that begin with the weights of a published network."""


def cell(**changes: object) -> Cell:
    return grid(**{**BASE, "dataset": "mixture", **changes})[0]


def executed(run: Callable[[], object]) -> set[str]:
    """Names of the package's modules of which a function runs."""
    files: set[str] = set()

    def note(frame, event, argument):  # calls only: a profiler is told of more
        files.add(frame.f_code.co_filename)

    threading.settrace(note)
    sys.settrace(note)
    try:
        run()
    finally:
        sys.settrace(None)
        threading.settrace(None)
    own = [Path(file).relative_to(PACKAGE) for file in files if file.startswith(str(PACKAGE))]
    return {".".join(["subpop", *path.with_suffix("").parts]).removesuffix(".__init__") for path in own}


def uncovered(own: Cell) -> set[str]:
    """Modules that run while some trials of a cell are made, and that are in no key."""
    experiment = Experiment.on(NoStore())
    covered = modules_in_key(experiment.code(own))
    if own.defense.startswith(MATCHED):
        covered |= modules_in_key(experiment.code(own.with_(defense=own.defense.removeprefix(MATCHED))))
    trials = experiment.list_trials(own)
    return executed(lambda: experiment.run_chunk(own, [trials[0], trials[-1]])) - covered - REGISTRIES - BOOKKEEPING


@pytest.mark.parametrize("defense", [*DEFENSES, MATCHED + "trim", "retrain"])
def test_what_runs_for_a_defense_is_in_its_key(defense):
    assert uncovered(cell(**{"defense": defense, **OWN_CELLS.get(defense, {})})) == set()


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_runs_for_an_attack_is_in_its_key(attack):
    assert uncovered(cell(dataset="digits", attack=attack, **OWN_ATTACKS.get(attack, {}))) == set()


@pytest.mark.parametrize("victim", [*sorted(set(VICTIMS) - NEED_WEIGHTS), "sklearn.naive_bayes:GaussianNB"])
def test_what_runs_for_a_victim_is_in_its_key(victim):
    pictures, texts = victim.startswith("conv_net"), victim.startswith(("tiny_bert", "text"))
    more = {"encoder": "tiny"} if victim == "text_linear" else {}
    assert (
        uncovered(cell(victim=victim, dataset="digits_images" if pictures else "reviews" if texts else "digits", **more)) == set()
    )


@pytest.mark.parametrize("dataset", [name for name, source in DATASETS.items() if source.licence == "generated"] + ["digits"])
def test_what_runs_for_a_data_set_is_in_its_key(dataset):
    text = {"victim": "text_linear", "encoder": "tiny"} if dataset == "reviews" else {}
    label = {"label_rule": "rarest"} if dataset == "mixture_multiclass" else {}
    assert uncovered(cell(dataset=dataset, **text, **label)) == set()


@pytest.mark.parametrize("partition", PARTITIONS)
def test_what_runs_for_a_partition_is_in_its_key(partition):
    assert uncovered(cell(dataset="digits", partition=partition, n_attacked=2, protocol="reserve")) == set()
    if partition == "cluster_match":
        assert uncovered(cell(partition=partition, clusters_on="conv_net", **PICTURES)) == set()
        words = {"dataset": "reviews", "victim": "tiny_bert_last_layer", "clusters_on": "hidden_states"}
        assert uncovered(cell(partition=partition, **words)) == set()


MEASURED_WHOLE = {
    "clusters": {"victim": "none", "partition": "cluster_match", "dataset": "digits_images", "rate": 0.0},
    "target_sets": {
        "dataset": "digits_images",
        "victim": "conv_net_last_layer",
        "partition": "random",
        "attack": "influence",
        "epsilon": 16,
        "rate": 0.0,
    },
    "two_worlds": {"dataset": "mixture_cells", "worlds": "paired", "alpha_base": "train", "defense": "trim"},
}


WHOLE = [name for name in KINDS if kind_named(name).is_stored and not kind_named(name).trains_trials]
"""Kinds whose results are stored whole; one without a cell above is represented by the first embedded cell of its suite."""


def cell_of_kind(kind: str) -> Cell:
    if kind in MEASURED_WHOLE:
        return cell(kind=kind, **MEASURED_WHOLE[kind])
    return next(own for own in all_cells() if own.kind == kind and own.tier == "embedded")


@pytest.mark.parametrize("kind", WHOLE)
def test_what_runs_for_a_kind_is_in_a_key(kind, monkeypatch):
    """Results that are stored whole: the modules of all keys that are asked for while one is made."""
    roots: set[str] = set()
    key = Memo.key

    def noted(self, code, **parts):
        roots.update(code)
        return key(self, code, **parts)

    monkeypatch.setattr(Memo, "key", noted)
    own = cell_of_kind(kind)
    measure = kind_named(kind).measurer(Experiment.on(NoStore()))
    tables = {name for name in sys.modules if name.startswith("subpop.report.tables")}  # say how cells are shown
    found = executed(lambda: measure(own)) - tables - REGISTRIES - BOOKKEEPING
    assert found - modules_in_key(frozenset(roots)) == set()


def test_what_scores_a_clean_model_is_in_its_key(monkeypatch):
    context, own, roots = Experiment.on(NoStore()).context, cell(), set()
    monkeypatch.setattr(context.memo, "key", lambda code, **parts: str(roots.update(code)))
    context.model_key(own, "right", 0)
    monkeypatch.undo()
    context.clean_model(own, 0)  # has a key of its own
    assert executed(lambda: context.clean_right(own, 0)) - modules_in_key(frozenset(roots)) - REGISTRIES - BOOKKEEPING == set()


def test_a_result_that_is_stored_whole_depends_on_the_code_of_its_subpopulations(monkeypatch):
    """Also where the module that measures it imports none of that code."""
    roots: set[str] = set()
    key = Memo.key

    def noted(self, code, **parts):
        roots.update(code if "result" in parts else ())
        return key(self, code, **parts)

    monkeypatch.setattr(Memo, "key", noted)
    own = cell_of_kind("clusters")
    kept_result(own, Experiment.on(NoStore()), "subpop.types.base", lambda: CellResult(own, ()))
    needed = {"subpop.datasets.stage", "subpop.datasets.split", "subpop.datasets.partitions"}
    assert needed - modules_in_key(frozenset(roots)) == set()


def test_cases_are_of_registered_parts():
    assert set(MEASURED_WHOLE) <= set(WHOLE)
    assert set(OWN_CELLS) <= set(DEFENSES)
    assert set(OWN_ATTACKS) <= set(ATTACKS)
    missing = {name for name, source in DATASETS.items() if source.licence != "generated"}
    assert {"digits", "digits_images"} < missing  # of those that come with scikit-learn; the others need their files


# --- what an edit makes invalid ---------------------------------------------------------------------------------------

OWN = {
    "none": cell(),
    "trim": cell(defense="trim"),
    "matched to trim": cell(defense=MATCHED + "trim"),
    "sever": cell(defense="sever"),
    "matched to sever": cell(defense=MATCHED + "sever"),
    "spectral": cell(defense="spectral_signatures"),
    "clustering": cell(defense="activation_clustering"),
    "network": cell(victim="mlp"),
    "digits": cell(dataset="digits"),
    "moved": cell(attack="gradient_match"),
    "texts": cell(dataset="reviews", victim="text_linear", encoder="tiny"),
    "smoothing": cell(dataset="digits", victim="last_layer", defense="label_flip_smoothing"),
}


@pytest.fixture(scope="module")
def experiment():
    return Experiment.on(NoStore())


def keys(experiment: Experiment) -> dict[str, str]:
    """The key of the first trials of each cell, computed anew."""
    made = experiment.context.memo._made
    for key in [key for key in made if key[0] in ("chunk", "model key")]:
        del made[key]
    code_key.cache_clear()
    return {name: experiment.chunk_key(own, experiment.chunks(own)[0]) for name, own in OWN.items()}


def invalid_after(edit: str, experiment: Experiment, monkeypatch) -> set[str]:
    """The cells whose trials are trained anew after an edit of a module's code."""
    before, code_of = keys(experiment), fingerprint._code_of
    path = fingerprint._Tree(PACKAGE.parent, PACKAGE.name).find(edit)
    assert path is not None, edit

    def edited(file, source, package):
        code, imported = code_of(file, source, package)
        return (code + "edited" if file == path else code), imported

    monkeypatch.setattr(fingerprint, "_code_of", edited)
    after = keys(experiment)
    monkeypatch.undo()
    code_key.cache_clear()
    return {name for name in OWN if before[name] != after[name]}


ALL = set(OWN)
LOGISTIC = ALL - {"network"}


@pytest.mark.parametrize(
    ("edit", "invalid"),
    [
        ("subpop.defenses.trim", {"trim", "matched to trim"}),
        ("subpop.defenses.sever", {"sever", "matched to sever"}),
        ("subpop.defenses.spectral_signatures", {"spectral"}),
        ("subpop.defenses.activation_clustering", {"clustering"}),
        ("subpop.defenses", set()),  # where a new defense gets its line
        ("subpop.victims", set()),
        ("subpop.datasets", set()),
        ("subpop.attacks", set()),
        ("subpop.attacks.gradient_match", {"moved"}),
        ("subpop.defenses.certificates.smoother", {"smoothing"}),
        ("subpop.victims.mlp_kernel", {"network", "moved"}),  # the attack takes the models of any victim apart
        ("subpop.victims.conv_fleet", set()),
        ("subpop.victims.newton", LOGISTIC),
        ("subpop.datasets.mixture", ALL - {"digits", "texts", "smoothing"}),
        ("subpop.datasets.imdb", set()),
        ("subpop.datasets.adult", set()),
        ("subpop.features.encoders.tokens", {"texts"}),
        ("subpop.results.summary", set()),
        ("subpop.results.references", set()),
        ("subpop.runtime.progress", set()),
        ("subpop.report.suite_page", set()),
        ("subpop.report.figures.lines", set()),
        ("subpop.session.pytest_plugin", set()),
        ("subpop.experiments.impossibility.curves", set()),
        ("subpop.experiments.integrity.inspector", set()),
        ("subpop.attacks.drawing", ALL),
        ("subpop.experiments.trial", ALL),
        ("subpop.experiments.experiment", ALL),
        ("subpop.experiments.context", ALL),
    ],
)
def test_an_edit_makes_its_own_trials_invalid_and_no_others(edit, invalid, experiment, monkeypatch):
    assert invalid_after(edit, experiment, monkeypatch) == invalid


def test_a_registry_line_that_changes_is_noticed(monkeypatch):
    """Registries are in no key; what they hold under the cell's own names is."""

    def key(own: Cell) -> str:
        experiment = Experiment.on(NoStore())
        return experiment.chunk_key(own, experiment.chunks(own)[0])

    network, filtered, text = cell(victim="mlp", n_seeds=1), cell(defense="sever"), cell(**TEXTS)
    before = [key(each) for each in (network, filtered, text)]
    assert before == [key(each) for each in (network, filtered, text)]
    monkeypatch.setitem(VICTIMS, "mlp", lambda device, weights: victims.MLP(hidden=12))
    monkeypatch.setitem(DEFENSES, "sever", DEFENSES["sever_per_label"])  # another function of the same file
    assert key(network) != before[0]
    assert key(filtered) != before[1]
    monkeypatch.setitem(victims.TINY, "learning_rate", 2e-3)
    assert key(text) != before[2]


def test_the_words_of_registry_lines_are_the_same_in_every_process():
    texts = [entry_text(entry) for table in (VICTIMS, DEFENSES, ATTACKS) for entry in table.values()]
    assert not [text for text in texts if " at 0x" in text]  # the address of an object
    assert len(set(texts)) == len(texts)


def test_the_words_of_a_registry_line_hold_its_arguments():
    lines = [partial(cell, victim="mlp"), partial(cell, victim="knn_1"), partial(cell, "mlp"), partial(cell), cell]
    assert len({entry_text(line) for line in lines}) == len(lines)


def test_the_words_of_a_registry_line_hold_all_that_a_lambda_says():
    def with_hidden(n):
        return lambda device, weights: victims.MLP(hidden=n)

    pairs = [
        (lambda device, weights: victims.MLP(hidden=10), lambda device, weights: victims.MLP(hidden=12)),
        (lambda device, weights: victims.MLP(hidden=len(device) + 1), lambda device, _: victims.MLP(hidden=len(device) - 1)),
        (lambda device, weights: victims.ConvNet(device), lambda device, weights: victims.ConvNet(weights)),
        tuple(lambda device, weights, n=n: victims.MLP(hidden=n) for n in (10, 12)),
        (with_hidden(10), with_hidden(12)),
        (partial(with_hidden, with_hidden(10)), partial(with_hidden, with_hidden(12))),
        (lambda: [lambda: 1], lambda: [lambda: 2]),
    ]
    for one, other in pairs:
        assert entry_text(one) != entry_text(other)
        assert " at 0x" not in entry_text(one)
    assert entry_text(with_hidden(10)) == entry_text(with_hidden(10))


def test_the_words_of_a_registry_line_follow_helpers_in_its_file():
    """`subpop.victims` is in no key, so neither is a function that it defines for some of its lines."""

    def line(hidden: int) -> Callable[..., object]:
        own = dict(vars(victims))
        exec(f"def helper(device):\n    return MLP(hidden={hidden})\nline = lambda device, weights: helper(device)", own)
        return own["line"]

    assert entry_text(line(10)) == entry_text(line(10))
    assert entry_text(line(10)) != entry_text(line(12))


def test_the_networks_of_table_16_are_in_its_key():
    covered = modules_in_key(frozenset({"subpop.experiments.target_sets.measure"}))
    assert {"subpop.features.networks", "subpop.features.networks.resnet_cifar"} <= covered


def test_code_from_outside_the_package_counts_with_what_it_imports(tmp_path, monkeypatch):
    """Such as an attack that another project registers."""
    (tmp_path / "own_attack.py").write_text("import own_helper\n")
    (tmp_path / "own_helper.py").write_text("STEP = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    import_module("own_attack")
    before = code_key(frozenset({"own_attack"}))
    for name, text in (("own_helper", "STEP = 2\n"), ("own_attack", "import own_helper\nSTEPS = 5\n")):
        (tmp_path / f"{name}.py").write_text(text)
        code_key.cache_clear()
        assert code_key(frozenset({"own_attack"})) != before, name
        before = code_key(frozenset({"own_attack"}))


def test_composers_and_registries_exist():
    tree = fingerprint._Tree(PACKAGE.parent, PACKAGE.name)
    assert all(tree.find(name) for name in REGISTRIES | COMPOSERS | BOOKKEEPING)


def test_one_text_victim_with_two_encoders_has_two_models(tmp_path):
    """Both encoders have one vocabulary, so that the rows are equal and only the encoder tells the models apart."""
    context = Context(NoStore())
    one, other = (cell(**TEXTS, encoder=str(save_bert(tmp_path / str(seed), seed)), max_length=20) for seed in (0, 1))
    assert context.data(one).fingerprint == context.data(other).fingerprint
    assert context.model_key(one, "clean", 0) != context.model_key(other, "clean", 0)
    assert context.model_key(one, "clean", 0) != context.model_key(one.with_(max_length=12), "clean", 0)
    assert context.model_key(one, "clean", 0) != context.model_key(one, "attacker", 0)
    assert context.model_key(one, "clean", 0) != context.model_key(one, "clean", 1)
    exact = cell()
    assert context.model_key(exact, "clean", 0) == context.model_key(exact, "clean", 1)
