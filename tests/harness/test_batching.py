"""`fit` as a batching point: who runs when, what is trained together, and what a defense may ask for and return."""

import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from subpop.defenses.fits import fit_all, probabilities
from subpop.harness import batching
from subpop.harness.batching import DefenseError, DefenseTask, PoolRows, TrialBatch, job_of
from subpop.harness.outcome import Outcome, check_defended, check_outcome, seal
from subpop.types import ArrayRows, BadInput, Defended, Knowledge, Pool, TrainingSet

N, D, N_TEST, N_CLASSES = 30, 4, 11, 3
RNG = np.random.default_rng(0)
POOL = Pool(RNG.normal(size=(N, D)).astype(np.float32), RNG.integers(0, N_CLASSES, N), 20, N_CLASSES)
TEST_X = RNG.normal(size=(N_TEST, D)).astype(np.float32)


class Share:
    """Predicts class shares of its training labels, with the set's size as its feature."""

    def __init__(self, train):
        self.size = len(train)
        self.share = np.bincount(train.y, minlength=N_CLASSES) / len(train)

    def predict_proba(self, x):
        return np.tile(self.share.astype(np.float32), (len(x), 1))

    def features(self, x):
        return np.full((len(x), 1), self.size, np.float32)


def task(seed=0, rows=None, **knowledge):
    rows = np.random.default_rng(seed).permutation(N)[:24] if rows is None else np.asarray(rows)
    return DefenseTask(
        TrainingSet(PoolRows(POOL, rows), np.arange(len(rows)), POOL.y[rows]), Knowledge(**knowledge), seed, f"seed {seed}"
    )


def shares(requests):
    return [Share(train) for _, train in requests]


def batch(*tasks, fit_many=shares, test_x=TEST_X):
    return TrialBatch(tasks, fit_many, test_x, N_CLASSES)


@pytest.fixture(autouse=True, params=["thread", "greenlet"])
def carrier(request, monkeypatch):
    """Each test runs with trials on threads, as plug-ins have them, and on greenlets, as built-in defenses have them."""
    if request.param == "greenlet":
        monkeypatch.setattr(batching, "OnThread", batching.OnGreenlet)
    return request.param


def run(defense, n=1, fit_many=shares):
    return list(batch(*map(task, range(n)), fit_many=fit_many).run(defense))


def undefended(train, fit, know, *, seed):
    return Defended(fit(train))


def no_trial_is_left():
    return not any(thread.name.startswith("trial ") for thread in threading.enumerate())


# --- rows -------------------------------------------------------------------------------------------------------------


def test_ids_are_mapped_back_to_rows_of_the_pool():
    rows = np.array([25, 3, 17, 3])
    train = TrainingSet(PoolRows(POOL, rows), np.arange(4), [0, 1, 2, 0])
    job = job_of(POOL, train[[3, 0]].relabel([2, 1]))
    assert job.rows.tolist() == [3, 25]
    assert job.y.tolist() == [2, 1]
    assert job.extra_x is None
    assert np.array_equal(job.x, POOL.x[[3, 25]])


def test_rows_outside_the_pool_stay_outside_it():
    extra = np.arange(2 * D, dtype=np.float32).reshape(2, D)
    train = TrainingSet(PoolRows(POOL, np.array([N + 1, 5, N]), extra), np.arange(3), [0, 1, 2])
    assert np.array_equal(train.x, np.stack([extra[1], POOL.x[5], extra[0]]))
    assert np.array_equal(job_of(POOL, train[np.array([True, True, False])]).x, np.stack([extra[1], POOL.x[5]]))


def test_new_inputs_become_extra_rows_of_the_data_s_dtype():
    x = np.ones((2, D))
    job = job_of(POOL, TrainingSet.of(x, [0, 1]))
    assert job.rows.tolist() == [N, N + 1]
    assert job.extra_x.dtype == np.float32
    assert np.array_equal(job.x, x)


@given(st.lists(st.integers(0, 23), min_size=1, max_size=40), st.integers(0, 5))
@settings(max_examples=25, deadline=None)
def test_a_job_trains_on_exactly_the_chosen_rows(chosen, seed):
    train = task(seed).train[chosen]
    job = job_of(POOL, train)
    assert np.array_equal(job.x, train.x)
    assert np.array_equal(job.y, train.y)


# --- who runs when ----------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 4), min_size=1, max_size=7))
@settings(max_examples=25, deadline=None)
def test_all_waiting_trials_are_trained_together_in_task_order(counts):
    """A trial that wants counts[i] fits takes part in the first counts[i] batches."""
    batches = []

    def fit_many(requests):
        batches.append([index for index, _ in requests])
        return [Share(train) for _, train in requests]

    def defense(train, fit, know, *, seed):
        models = [fit(train) for _ in range(counts[seed])]
        return Defended(models[-1] if models else Share(train))

    outcomes = run(defense, len(counts), fit_many)
    assert batches == [[i for i, count in enumerate(counts) if count > done] for done in range(max(counts))]
    assert [outcome.n_fits for outcome in outcomes] == counts


def test_trials_that_wait_for_probabilities_get_them_together():
    """In one call for all trials; models of other classes, and rows outside the pool, are predicted by the trial itself."""
    calls = []

    class Linear(Share):
        @staticmethod
        def predict_together(models, x, rows):
            calls.append(len(models))
            return [model.predict_proba(x[own]) for model, own in zip(models, rows, strict=True)]

    class Inherits(Linear):
        pass

    def defense(train, fit, know, *, seed):
        model = fit(train[train.ids % 3 != seed])
        for _ in range(1 + seed % 2):
            found = probabilities(fit, model, train)
            assert np.array_equal(found, model.predict_proba(train.x))
        other = TrainingSet.of(train.x, train.y)
        assert np.array_equal(probabilities(fit, model, other), model.predict_proba(other.x))
        return Defended(model)

    def trained(kind):
        return lambda requests: [kind(train) for _, train in requests]

    run(defense, 4, trained(Linear))
    assert calls == [4, 2]
    run(defense, 4, trained(Inherits))
    run(defense, 4, trained(Share))
    assert calls == [4, 2]


@settings(max_examples=30, deadline=None)
@given(parts=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=3), min_size=1, max_size=4))
def test_several_sets_of_a_trial_are_trained_in_the_same_batch(parts):
    """parts[i][j]: how many sets trial i passes in its j-th call; each call gets its own models, in order, none is lost."""
    batches = []

    def fit_many(requests):
        batches.append([i for i, _ in requests])
        return shares(requests)

    def ensemble(train, fit, know, *, seed):
        for n in parts[seed]:
            models = fit_all(fit, [train[train.ids[: j + 1]] for j in range(n)])
            assert [model.size for model in models] == list(range(1, n + 1))
        return Defended(fit(train))

    outcomes = run(ensemble, len(parts), fit_many)
    calls = [[*(n for n in own if n), 1] for own in parts]  # an empty list of sets asks for nothing
    rounds = max(map(len, calls))
    assert batches == [[i for i, own in enumerate(calls) for _ in range(own[k] if k < len(own) else 0)] for k in range(rounds)]
    assert [outcome.n_fits for outcome in outcomes] == [sum(own) for own in calls]


def test_a_model_of_several_is_known_to_be_made_by_fit():
    def second(train, fit, know, *, seed):
        keep = np.arange(len(train)) >= 5
        return Defended(fit_all(fit, [train, train[keep]])[1], keep)

    [outcome] = run(second)
    assert outcome.made_by_fit
    assert outcome.keep_checked


def test_fit_all_calls_any_other_fit_in_a_loop():
    train = task().train
    assert [model.size for model in fit_all(Share, [train[train.ids[:3]], train[train.ids[:2]]])] == [3, 2]


def test_one_trial_runs_at_a_time_in_order():
    events = []

    def defense(train, fit, know, *, seed):
        for step in range(2):
            events.append((step, seed, "in"))
            time.sleep(0.002)  # another thread would get in between
            events.append((step, seed, "out"))
            model = fit(train)
        return Defended(model)

    run(defense, 4)
    assert events == [(step, seed, side) for step in range(2) for seed in range(4) for side in ("in", "out")]
    assert no_trial_is_left()


def test_each_trial_gets_its_own_model_knowledge_and_seed():
    def defense(train, fit, know, *, seed):
        model = fit(train[train.ids < know.n_poison])
        return Defended(model, diagnostics={"size": model.features(train.x)[0, 0], "seed": seed})

    tasks = [task(seed, n_poison=seed + 3) for seed in range(5)]
    outcomes = list(batch(*tasks).run(defense))
    assert [outcome.diagnostics for outcome in outcomes] == [{"size": seed + 3.0, "seed": float(seed)} for seed in range(5)]


def test_a_defense_for_each_task():
    def keeping(k):
        return lambda train, fit, know, *, seed: Defended(fit(train[train.ids < k]), train.ids < k)

    outcomes = run([keeping(5), keeping(7)], 2)
    assert [int(outcome.keep.sum()) for outcome in outcomes] == [5, 7]


def test_outcomes_come_as_soon_as_they_are_next():
    turns = []

    def defense(train, fit, know, *, seed):
        for _ in range(1 if seed == 0 else 3):
            model = fit(train)
        return Defended(model)

    outcomes = batch(task(0), task(1)).run(defense, lambda i, p: turns.append((i, p)))
    next(outcomes)
    assert turns == [(0, "defense"), (1, "defense"), (-1, "harness"), (0, "defense"), (0, "predictions")]
    outcomes.close()
    assert no_trial_is_left()


def test_own_time_leaves_out_fit_and_predictions():
    class Slow(Share):
        def predict_proba(self, x):
            time.sleep(0.3)
            return super().predict_proba(x)

    def defense(train, fit, know, *, seed):
        time.sleep(0.05)
        return Defended(Slow(train) if fit(train) else None)

    def fit_many(requests):
        time.sleep(0.3)
        return [Share(train) for _, train in requests]

    for outcome in run(defense, 2, fit_many):
        assert 0.05 <= outcome.seconds < 0.25


def test_many_trials_and_batches():
    def defense(train, fit, know, *, seed):
        for _ in range(6):
            model = fit(train)
        return Defended(model)

    model = Share(task().train)
    started = time.perf_counter()
    outcomes = run(defense, 300, lambda requests: [model] * len(requests))
    assert len(outcomes) == 300
    assert time.perf_counter() - started < 5  # 0.1 s to 0.2 s on an idle machine, tasks included


def test_test_rows_are_fetched_only_for_predictions():
    asked = []

    def test_x():
        asked.append(len(asked))
        return TEST_X

    def defense(train, fit, know, *, seed):
        fit(train)
        assert not asked
        return Defended(fit(train))

    list(batch(task(), test_x=test_x).run(defense))
    assert asked == [0]


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_a_trial_that_raises_is_named_and_ends_the_wave():
    def defense(train, fit, know, *, seed):
        model = fit(train)
        if seed == 2:
            raise KeyError("no such thing")
        return Defended(model)

    outcomes = batch(*map(task, range(4))).run(defense)
    assert len([next(outcomes), next(outcomes)]) == 2  # those before it are not lost
    with pytest.raises(DefenseError, match=r"trial 2 \(seed 2\): KeyError: 'no such thing'") as caught:
        next(outcomes)
    assert caught.value.task == 2
    assert 'raise KeyError("no such thing")' in caught.value.details
    assert "subpop/harness/batching.py" not in caught.value.details
    assert no_trial_is_left()


def test_sys_exit_ends_the_trial_only():
    with pytest.raises(DefenseError, match=r"called sys.exit\(3\)"):
        run(lambda train, fit, know, *, seed: exec("import sys; sys.exit(3)"))


def test_what_fit_many_raises_passes_through():
    def broken(requests):
        raise ZeroDivisionError("solver")

    with pytest.raises(ZeroDivisionError, match="solver"):
        run(undefended, 3, broken)
    assert no_trial_is_left()


def test_a_wrong_number_of_models_is_refused():
    with pytest.raises(BadInput, match="1 models for 2 training sets"):
        run(undefended, 2, lambda requests: [Share(requests[0][1])])


def test_a_defense_that_swallows_everything_is_cancelled_all_the_same():
    swallowed = []

    def defense(train, fit, know, *, seed):
        for _ in range(3):
            try:
                fit(train)
            except BaseException as error:
                swallowed.append(type(error).__name__)
        return Defended(Share(train))

    with pytest.raises(ZeroDivisionError):
        run(defense, 2, lambda requests: 1 / 0)
    assert swallowed == ["_Cancelled"] * 6
    assert no_trial_is_left()


def test_fit_belongs_to_the_defense_s_own_thread():
    def defense(train, fit, know, *, seed):
        with ThreadPoolExecutor(2) as pool:
            return Defended(next(pool.map(fit, [train, train])))

    with pytest.raises(DefenseError, match="fit was called from a thread"):
        run(defense, 2)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda t: t.x, "fit takes a TrainingSet, not ndarray"),
        (lambda t: t[t.ids < 0], "empty training set"),
        (lambda t: t.relabel(t.y + 1), "label 3; labels are 0 to 2"),
        (lambda t: t.relabel(t.y - 1), "label -1; labels are 0 to 2"),
        (lambda t: TrainingSet.of(t.x[:, :2], t.y), r"shape \(2,\); rows of this data are float32 of shape \(4,\)"),
        (lambda t: TrainingSet.of(t.x.astype(complex), t.y), "complex128"),
        (lambda t: TrainingSet.of(t.x * np.nan, t.y), "NaN or infinite"),
        (lambda t: TrainingSet.of(t.x.astype(float) + 1e300, t.y), "too large values for float32"),
    ],
)
def test_what_fit_refuses(ask, message):
    with pytest.raises(DefenseError, match=message):
        run(lambda train, fit, know, *, seed: Defended(fit(ask(train))))


def test_what_fit_takes():
    asked = []

    def fit_many(requests):
        asked.extend(train for _, train in requests)
        return [Share(train) for _, train in requests]

    def defense(train, fit, know, *, seed):
        fit(TrainingSet.of(train.x.astype(np.float64), train.y))
        fit(train[[1, 1, 1]])
        return Defended(fit(know.clean_holdout))

    holdout = TrainingSet(PoolRows(POOL, np.array([3, 4])), [0, 1], POOL.y[[3, 4]])
    list(batch(task(clean_holdout=holdout), fit_many=fit_many).run(defense))
    assert job_of(POOL, asked[0]).extra_x.dtype == np.float32
    assert len(asked[1]) == 3
    assert job_of(POOL, asked[2]).rows.tolist() == [3, 4]


def test_errors_travel_between_processes():
    error = DefenseError(3, "reason", "details\n", "digit 3")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) == "trial 3 (digit 3): reason\ndetails"
    assert again.task == 3


def test_an_error_about_what_was_not_declared_says_how_to_declare_it():
    def undeclared(train, fit, know, *, seed):
        return Defended(fit(know.clean_holdout[:3]))

    with pytest.raises(DefenseError, match=r"know\.clean_holdout is None here; .* my_defense\.needs = {'clean_holdout'}"):
        run(undeclared)

    def own_mistake(train, fit, know, *, seed):
        return Defended(fit({}.get("x").rows))

    with pytest.raises(DefenseError, match="NoneType") as caught:
        run(own_mistake)
    assert "needs" not in caught.value.reason


# --- what a defense returns -------------------------------------------------------------------------------------------


class Fixed:
    def __init__(self, proba):
        self.proba = proba

    def predict_proba(self, x):
        return self.proba


def uniform(change=None):
    proba = np.full((N_TEST, N_CLASSES), 1 / N_CLASSES)
    if change is not None:
        proba[2] = change
    return Fixed(proba)


BAD_RETURNS = [
    (None, "returned NoneType; it must return Defended"),
    (uniform(), "returned Fixed; it must return Defended"),
    (Defended(3), "the model is int, which has no predict_proba"),
    (Defended(uniform(), keep=[True] * 24), "keep is list"),
    (Defended(uniform(), keep=np.ones(24)), r"keep is float64 of shape \(24,\); it must be a boolean array of shape \(24,\)"),
    (Defended(uniform(), keep=np.ones(23, bool)), r"keep is bool of shape \(23,\)"),
    (
        Defended(Fixed(np.ones((N_TEST, 2)) / 2)),
        r"float64 of shape \(11, 2\) for 11 rows; it must return numbers of shape \(11, 3\)",
    ),
    (Defended(Fixed(np.full((N_TEST, N_CLASSES), "a"))), "it must return numbers"),
    (Defended(uniform(np.nan)), "NaN or infinite values in 1 of 11 rows"),
    (Defended(uniform([0.5, 0.5, 0.5])), "whose sum differs from 1 by up to 0.5"),
    (Defended(uniform([0.334, 0.334, 0.334])), "whose sum differs from 1 by up to 0.002"),
    (Defended(uniform([1.5, -0.5, 0.0])), "entries down to -0.5"),
    (Defended(uniform(), stages={"pruned": uniform(np.inf)}), "stage 'pruned' has NaN or infinite"),
    (Defended(uniform(), stages={"": uniform()}), "stages is"),
    (Defended(uniform(), stages=[uniform()]), "stages is"),
    (Defended(uniform(), certified_radius=lambda x: np.zeros(len(x))), "certified_radius returned float64"),
    (Defended(uniform(), certified_radius=lambda x: np.full(len(x), -1)), "integers at least 0"),
    (Defended(uniform(), certified_radius=lambda x: np.zeros(3, int)), "it must return 11 integers"),
    (Defended(uniform(), votes=lambda x: np.zeros((len(x), 2))), r"votes returned float64 of shape \(11, 2\) for 11 rows"),
    (Defended(uniform(), votes=lambda x: np.zeros((3, 2), int)), r"votes returned int64 of shape \(3, 2\)"),
    (Defended(uniform(), votes=lambda x: np.full((len(x), 2), 3)), "votes are from 3 to 3; they must be classes from 0 to 2"),
    (Defended(uniform(), diagnostics={"loss": float("nan")}), r"diagnostics\['loss'\] is nan"),
    (Defended(uniform(), diagnostics={"loss": "low"}), "one finite number"),
    (Defended(uniform(), diagnostics={1: 2.0}), "diagnostics is"),
]


@pytest.mark.parametrize(("returned", "message"), BAD_RETURNS)
def test_what_a_defense_may_not_return(returned, message):
    train = task().train
    with pytest.raises(BadInput, match=message):
        check_defended(returned, train, seal(train), TEST_X, N_CLASSES)


def test_everything_a_defense_may_return():
    keep = np.arange(24) > 3
    proba = np.zeros((N_TEST, N_CLASSES), np.float32)
    proba[:, 1] = 1.0005
    defended = Defended(
        uniform(), keep, {"pruned": Fixed(proba)}, lambda x: np.arange(len(x), dtype=np.uint8), {"rounds": np.int64(3)}
    )
    train = task().train
    outcome = check_defended(defended, train, seal(train), TEST_X, N_CLASSES)
    assert outcome.predictions[""].tolist() == [0] * N_TEST  # ties go to the lowest class
    assert outcome.predictions["pruned"].tolist() == [1] * N_TEST
    assert np.array_equal(outcome.keep, keep)
    assert outcome.certified_radii[""].dtype == np.int64
    assert outcome.diagnostics == {"rounds": 3.0}
    check_outcome(outcome, 24, N_TEST, N_CLASSES)


@pytest.mark.parametrize(
    "change",
    [
        {"predictions": {}},
        {"predictions": {"": np.zeros(N_TEST)}},
        {"predictions": {"": np.full(N_TEST, 3)}},
        {"predictions": {"": np.zeros(2, int)}},
        {"keep": np.ones(3, bool)},
        {"certified_radii": {"": np.full(N_TEST, -1)}},
        {"votes": np.zeros((N_TEST + 1, 2), np.int64)},
        {"diagnostics": {"a": float("inf")}},
        {"seconds": float("nan")},
        {"n_fits": -1},
    ],
)
def test_an_outcome_from_another_process_is_checked_again(change):
    good = {"predictions": {"": np.zeros(N_TEST, int)}}
    check_outcome(Outcome(**good), 24, N_TEST, N_CLASSES)
    with pytest.raises(BadInput):
        check_outcome(Outcome(**{**good, **change}), 24, N_TEST, N_CLASSES)


def write_plainly(train):
    train.x[0] = 0


def write_labels(train):
    train.y.setflags(write=True)
    train.y[:] = 0


def write_ids(train):
    train.ids.setflags(write=True)
    train.ids[0] = 5


def write_rows(train):
    train._source.array.setflags(write=True)
    train._source.array[:] += 1


@pytest.mark.parametrize(
    ("write", "message"),
    [(write_plainly, "read-only"), (write_labels, "wrote into"), (write_ids, "wrote into"), (write_rows, "wrote into")],
)
def test_writing_into_the_training_set_is_noticed(write, message):
    def defense(train, fit, know, *, seed):
        model = fit(train)
        write(train)
        return Defended(model)

    train = TrainingSet(ArrayRows(POOL.x[:24].copy()), np.arange(24), POOL.y[:24])
    with pytest.raises(DefenseError, match=message):
        list(batch(DefenseTask(train, Knowledge(), 0)).run(defense))
