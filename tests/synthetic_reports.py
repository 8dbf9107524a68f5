"""Cell reports as a run leaves them, made up: subpopulations of several sizes, attacks that saturate, defenses good and bad."""

import numpy as np

from subpop.report.figures import begin_to_draw
from subpop.results.intervals import ROWS, SEEDS
from subpop.types import Cell, CellReport, CellResult, Number, Verdict

RATES = (0.5, 1.0, 2.0)
# name: (share of the attack that is left, cost when nobody attacks, recall, precision or None for what is no filter)
DEFENSES = {
    "none": (1.0, 0.0, None, None),
    "perfect_filter": (0.0, 0.0, 1.0, 1.0),
    "random_filter": (1.0, 0.004, 0.06, 0.06),
    "drop_duplicates": (1.0, 0.0, 0.0, 0.0),
    "trim": (1.25, 0.012, 0.18, 0.21),
    "sever": (0.72, 0.02, 0.35, 0.22),
    "sever_as_released": (0.95, 0.06, 0.12, 0.05),
    "matched_random_filter:trim": (0.99, 0.003, 0.07, 0.07),
    "matched_random_filter:sever": (0.98, 0.004, 0.08, 0.07),
}


def cell_of(**changes):
    blank = Cell.of("defenses_trim_sever", "embedded", "digits", "logistic_regression", "feature_match", "label_flip", 1.0)
    return blank.with_(**changes)


def draw_all(reports, directory):
    """Draw every figure, and wait for them."""
    pictures, finish = begin_to_draw(reports, directory)
    finish()
    return pictures


def given(metric, value, half_width, varies=ROWS, std=None):
    """A number with an interval; its standard error is another number, which no page shows."""
    return Number(metric, value, half_width / 2.8, std=std, half_width=half_width, varies=varies)


def subpopulations(cell, n_subpopulations, left, cost, recall, precision):
    """The table of a cell: one made-up row a subpopulation, the same subpopulations for all defenses and alphas."""
    rng = np.random.default_rng([len(cell.dataset), len(cell.victim), len(cell.partition), int(cell.option("split", "0"))])
    sizes = np.exp(rng.normal(3.8, 0.7, n_subpopulations)).round()
    weakness, leak, own = (
        rng.beta(2, 3, n_subpopulations),
        rng.exponential(0.006, n_subpopulations),
        rng.normal(0, 0.01, n_subpopulations),
    )
    rows = []
    for i, size in enumerate(sizes):
        attack = left * weakness[i] * (1 - np.exp(-1.1 * cell.rate)) if cell.rate else 0.0
        effect = float(np.clip(attack + (own[i] if cell.rate else 0), -0.05, 0.95))
        prefix = "digit" if cell.partition == "feature_match" else "cluster"
        row = {
            "subpopulation": f"{prefix}={i}",
            "n_test": float(max(5, size // 2)),
            "n_train": float(size),
            "n_aux": float(size),
            "n_poison": float(round(cell.rate * size)),
            "n_flipped": float(round(cell.rate * size)),
            "effective_rate": cell.rate,
            "target_clean_accuracy": float(0.97 - 0.2 * weakness[i]),
            "target_damage": effect + cost,
            "target_damage_se": float(0.2 / np.sqrt(size)),
            "target_damage_half_width": float(0.4 / np.sqrt(size)),
            "collateral_damage": float(leak[i] * cell.rate + cost / 3),
            "defense_cost": cost,
            "attack_effect": effect,
        }
        if recall is not None:
            row |= {"poison_recall": recall, "poison_precision": precision, "removed_target_clean_share": 0.1}
        rows.append(row)
    return tuple(rows)


def numbers_of(table, seconds=0.4):
    damages = np.array([row["target_damage"] for row in table])
    order = np.argsort(-damages)
    pick = {name: np.array([row[name] for row in table]) for name in ("defense_cost", "attack_effect", "collateral_damage")}
    numbers = [given("clean_accuracy", 0.904, 0.002, SEEDS), given("target_damage_mean", float(damages.mean()), 0.008)]
    for k in (1, 5, 10):
        if k <= len(table):
            worst = order[:k]
            value = float(damages[worst].mean())
            numbers.append(given(f"target_damage_worst_{k}", value, 0.03 / np.sqrt(k), std=0.02))
            numbers.append(given(f"target_damage_worst_{k}_all", value + 0.01, 0.03))
            numbers.append(Number(f"target_damage_worst_{k}_selection_free", value - 0.02))
            numbers.append(Number(f"defense_cost_worst_{k}", float(pick["defense_cost"][worst].mean())))
            numbers.append(Number(f"attack_effect_worst_{k}", float(pick["attack_effect"][worst].mean())))
    numbers.append(Number("collateral_damage_max", float(pick["collateral_damage"].max())))
    numbers.append(Number("collateral_damage_mean", float(pick["collateral_damage"].mean())))
    if "poison_recall" in table[0]:
        numbers.append(given("poison_recall", table[0]["poison_recall"], 0.01, SEEDS))
        numbers.append(given("poison_precision", table[0]["poison_precision"], 0.01, SEEDS))
    return (*numbers, Number("effective_rate", table[0]["effective_rate"]), Number("kkt_residual_max", 3.2e-9))


def report_of(cell, n_subpopulations=20, left=None, cost=None, recall=None, precision=None, verdict="pass", arrays=None):
    """A measured cell whose verdicts are all alike."""
    if left is None:
        left, cost, recall, precision = DEFENSES.get(cell.defense, DEFENSES["none"])
    told = cell.option("n_poison_told")
    left = left * {"": 1.0, "half": 0.95, "twice": 1.1}[told]
    table = subpopulations(cell, n_subpopulations, left, cost or 0.0, recall, precision)
    knowledge = "n_poison" if recall else ""
    result = CellResult(
        cell, numbers_of(table), table, arrays or {}, knowledge, True, n_subpopulations, 120, 1.5, notes=("Two rows are twins.",)
    )
    verdicts = tuple(Verdict(n, verdict, reference=n.value, atol=0.01) for n in result.numbers)
    return CellReport(cell, result, verdicts, verdict)


def panel_arrays(seed=0, keep_rule="none", tilt=0.0):
    """Two large components and a small target, poisoned; `keep_rule`: none, trim, sever or '' for the unpoisoned panel."""
    rng = np.random.default_rng(seed)
    x = np.concatenate(
        [rng.normal([-2, -1], 0.7, (220, 2)), rng.normal([2, -1], 0.7, (220, 2)), rng.normal([-1, 1.8], 0.35, (60, 2))]
    )
    y = np.repeat([0, 1, 1], [220, 220, 60])
    poison, target = np.zeros(500, bool), np.arange(500) >= 440
    if keep_rule:
        x = np.concatenate([x, rng.normal([-1, 1.8], 0.35, (120, 2))])
        y = np.concatenate([y, np.zeros(120, int)])
        poison, target = np.arange(620) >= 500, np.arange(620) >= 440
    extent = np.array([-4.6, 4.6, -3.6, 3.4])
    across, up = np.meshgrid(np.linspace(*extent[:2], 60), np.linspace(*extent[2:], 60))
    proba = 1 / (1 + np.exp(-(2.5 * across + (2.2 - 5 * tilt) * up + 0.3)))
    arrays = {
        "panel_x": x,
        "panel_y": y,
        "panel_poison": poison,
        "panel_target": target,
        "panel_proba": proba,
        "panel_extent": extent,
    }
    if keep_rule in ("trim", "sever"):
        gone = rng.random(len(x)) < np.where(target & ~poison, 0.9, np.where(poison, 0.2, 0.05))
        arrays["panel_keep"] = ~gone
    return arrays


def figure2_reports():
    shared = {"stem": "figure2_trim", "dataset": "mixture_2d", "panels": "yes"}
    plan = [(0.0, "none", "", 0.0), (2.0, "none", "none", 0.5), (2.0, "trim", "trim", 0.7), (2.0, "sever", "sever", 0.55)]
    return [
        report_of(cell_of(rate=rate, defense=defense, **shared), 1, arrays=panel_arrays(0, rule, tilt))
        for rate, defense, rule, tilt in plan
    ]


def run_of_everything():
    """A whole embedded run: undefended suites over three splits, a board of defenses, Figure 2, a skip, an error, a failure."""
    reports = []
    for stem, partition in (("feature_match", "feature_match"), ("cluster_match", "cluster_match")):
        for dataset, victim in (("digits", "logistic_regression"), ("digits", "mlp"), ("mixture", "logistic_regression")):
            shared = {"stem": stem, "partition": partition, "dataset": dataset, "victim": victim}
            n = 10 if partition == "feature_match" else 60
            reports += [report_of(cell_of(rate=r, split=s, **shared), n) for r in (0.0, *RATES) for s in range(3)]
            if victim == "mlp":
                reports += [report_of(cell_of(rate=0.0, split=s, defense="retrain", **shared), n, 0.0, 0.03) for s in range(3)]
    for victim in ("logistic_regression", "mlp"):
        for partition in ("feature_match", "cluster_match"):
            shared = {"victim": victim, "partition": partition, "sampling": "distinct", "protocol": "reserve"}
            reports += [report_of(cell_of(rate=r, defense=d, **shared)) for r in RATES for d in DEFENSES]
    told = [(d, t) for d in ("trim", "sever") for t in ("half", "twice")]
    shared = {"sampling": "distinct", "protocol": "reserve"}
    reports += [report_of(cell_of(rate=r, defense=d, n_poison_told=t, **shared)) for r in RATES for d, t in told]
    reports += [
        report_of(cell_of(rate=r, defense="drop_random", **shared), left=0.9, cost=0.01, recall=0.1, precision=0.1) for r in RATES
    ]
    reports += figure2_reports()
    broken = cell_of(defense="hangs", **shared)
    reports.append(CellReport(broken, None, status="error", reason="hangs: no answer within --defense-timeout 300 s"))
    adult = cell_of(stem="feature_match", dataset="adult", rate=1.0)
    reports.append(
        CellReport(adult, None, status="skipped", reason="adult is not under SUBPOP_DATA; fetch it: subpop data fetch adult")
    )
    drifted = report_of(cell_of(dataset="mixture", **shared))
    moved = Verdict(Number("target_damage_worst_5", 0.4512, 0.01), "fail", "moved by .04 from .4112, more than .01", 0.4112, 0.01)
    verdicts = [moved if v.number.metric == moved.number.metric else v for v in drifted.verdicts]
    return [*reports, CellReport(drifted.cell, drifted.result, tuple(verdicts), "fail")]
