"""How often each 95 % interval contains its estimand, by simulation: `python tests/interval_coverage.py`.

`--page docs/intervals.md` writes the table into that page. The intervals are computed by the code of the package from simulated
predictions. (This file is not called coverage.py: it would hide the package `coverage`, which numba imports.)
"""

from __future__ import annotations

import argparse
import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from scipy.special import ndtr, ndtri
from scipy.stats import ttest_ind

from subpop.experiments.impossibility.measure import _sums
from subpop.experiments.target_sets.success import Sets, differences, welch
from subpop.results.intervals import of_rounds, of_table
from subpop.results.metrics import RightBits, damage
from subpop.results.released import ALPHAS, trials_of
from subpop.results.released import VICTIMS as VICTIMS_RELEASED
from subpop.results.summary.ranked import Ranked, over_seeds

NORMAL = 1.96
MARK = re.compile(r"(?<=<!-- simulated -->\n).*(?=<!-- end -->)", re.DOTALL)

# --- what is simulated ------------------------------------------------------------------------------------------------

VICTIMS = {"exact": (0.90, 0.0, 0.05), "network": (0.50, 0.03, 0.10), "unsteady network": (0.50, 0.10, 0.10)}
"""Of a row's tendency to be damaged, the parts that are the same under all seeds; that a seed gives to all rows; that it gives to
the rows of one subpopulation. The rest is independent. A network's mean damage then varies between seeds as in most suites."""
GRID = ("exact", "network")
"""The unsteady network is beyond the grid: its small mean damages vary between seeds by about their own size."""
DAMAGES: dict[str, Callable[[int], np.ndarray]] = {
    "equal, .3": lambda s: np.full(s, 0.3),
    "equal, .02": lambda s: np.full(s, 0.02),
    "equal, .98": lambda s: np.full(s, 0.98),
    "equal, 0": np.zeros,
    "0 to .6": lambda s: np.linspace(0.01, 0.6, s),
    ".1 to .4": lambda s: np.linspace(0.1, 0.4, s),
    ".6, others .1": lambda s: np.r_[0.6, np.full(s - 1, 0.1)],
}
UNHURT = 0.04
"""Where there is no damage, this share of the rows changes for the worse, and as many for the better."""


@dataclass(frozen=True)
class Point:
    """A grid point of damages: subpopulations with their true damages, test rows of each, seeds."""

    damages: str
    victim: str
    n_subpopulations: int = 10
    n_rows: int = 20
    n_seeds: int = 5

    def __str__(self) -> str:
        return f"{self.victim}, damages {self.damages}; {self.n_subpopulations} x {self.n_rows} rows, {self.n_seeds} seeds"

    @property
    def truth(self) -> np.ndarray:
        return DAMAGES[self.damages](self.n_subpopulations)

    def draw(self, generator: np.random.Generator, count: int) -> np.ndarray:
        """(count, subpopulations, seeds, rows) changes: 1 where the attack makes a right prediction wrong, -1 the other way."""
        shares = np.full(self.n_subpopulations, UNHURT) if self.damages == "equal, 0" else self.truth
        worse = self._below(generator, count, shares)
        return worse - (self._below(generator, count, shares) if self.damages == "equal, 0" else np.int8(0))

    def _below(self, generator: np.random.Generator, count: int, shares: np.ndarray) -> np.ndarray:
        s, n, m = self.n_subpopulations, self.n_seeds, self.n_rows
        same, common, own = VICTIMS[self.victim]
        total = np.zeros((count, s, n, m), np.float32)
        parts = [(same, (s, 1, m)), (common, (1, n, 1)), (own, (s, n, 1)), (1 - same - common - own, (s, n, m))]
        for variance, shape in parts:
            total += np.float32(math.sqrt(variance)) * generator.standard_normal((count, *shape), np.float32)
        return (total < ndtri(shares)[:, None, None].astype(np.float32)).astype(np.int8)


def ranked_of(changes: np.ndarray) -> Ranked:
    """The product's view of one draw of a grid point."""
    parts = [SimpleNamespace(bits=bits, damage=damage(bits)) for bits in map(bits_of, changes)]
    return Ranked(parts, seed=0)


def bits_of(changes: np.ndarray) -> RightBits:
    right = changes >= 0
    return RightBits(right, right, changes <= 0)


# --- one row of the table ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Coverage:
    """How often an interval and the one that it replaced contained the estimand. width: mean width; printed: share with one."""

    estimator: str
    point: str
    covered: float
    error: float
    width: float
    before: float
    printed: float = 1.0

    @classmethod
    def of(cls, estimator: str, point: object, truth: np.ndarray | float, found: list[tuple]) -> Coverage:
        """found: (estimate, half width or None, half width before) of every simulated run."""
        estimates, widths, before = (np.array(column, float) for column in zip(*found, strict=True))
        given = ~np.isnan(widths)
        off = np.abs(estimates - truth) - 1e-12
        n, share = int(given.sum()), float((off <= widths)[given].mean()) if given.any() else math.nan
        error = math.sqrt(max(share * (1 - share), 1 / n) / n) if n else math.nan
        width = 2 * float(widths[given].mean()) if n else math.nan
        return cls(estimator, str(point), share, error, width, float((off <= before).mean()), n / len(found))


# --- damages ----------------------------------------------------------------------------------------------------------


def of_damages(point: Point, count: int, seed: int = 0) -> list[Coverage]:
    """The damage of one subpopulation, their mean, worst-1 and worst-5."""
    draws = point.draw(np.random.default_rng(seed), count)
    many = [point.draw(np.random.default_rng([seed, i]), 1000).mean((2, 3)) for i in range(4)]
    ordered = np.sort(np.concatenate([*many, draws.mean((2, 3))]), axis=1)
    ranks = [k for k in (1, 5) if k < point.n_subpopulations]
    found: dict[str, list[tuple]] = {}
    for changes in draws:
        ranked = ranked_of(changes)
        one = ranked.parts[0].damage
        found.setdefault("damage of one", []).append((one.target, one.half_width, NORMAL * one.std_error))
        error = float(ranked.drawn.mean(1).std(ddof=1))
        found.setdefault("mean damage", []).append((ranked.values.mean(), ranked.mean_half_width(), NORMAL * error))
        for k in ranks:
            found.setdefault(f"worst-{k}", []).append((ranked.worst(k), ranked.half_width(k), NORMAL * ranked.std_error(k)))
    truth = {"damage of one": float(point.truth[0]), "mean damage": float(point.truth.mean())}
    truth |= {f"worst-{k}": float(ordered[:, -k:].mean()) for k in ranks}
    return [Coverage.of(name, point, truth[name], each) for name, each in found.items()]


def damage_grid() -> Iterator[Point]:
    for victim in GRID:
        for damages in DAMAGES:
            yield Point(damages, victim)
        for damages in ("equal, .3", "equal, .02"):
            yield Point(damages, victim, n_subpopulations=4)
            yield Point(damages, victim, n_subpopulations=30, n_rows=60)
            yield Point(damages, victim, n_rows=60)
            for n_seeds in (7, 10):
                yield Point(damages, victim, n_seeds=n_seeds)
        for n_seeds in (2, 3, 4):
            yield Point("equal, .3", victim, n_seeds=n_seeds)


def of_accuracy(victim: str, share: float, n_rows: int, n_seeds: int, count: int) -> Coverage:
    """A mean over seeds on given test rows, such as a clean accuracy."""
    generator = np.random.default_rng(1)
    same, common, own = VICTIMS[victim]
    own = own if n_rows <= 60 else 0.0  # it goes to the rows of one subpopulation
    rows = math.sqrt(same) * generator.standard_normal((count, 1, n_rows))
    seeds = math.sqrt(common + own) * generator.standard_normal((count, n_seeds, 1))
    noise = math.sqrt(1 - same - common - own) * generator.standard_normal((count, n_seeds, n_rows))
    values = (rows + seeds + noise < ndtri(share)).mean(2)
    truth = ndtr((ndtri(share) - rows) / math.sqrt(1 - same)).mean((1, 2))
    numbers = [over_seeds("clean_accuracy", own[None]) for own in values]
    found = [(number.value, number.half_width, NORMAL * (number.std_error or 0.0)) for number in numbers]
    return Coverage.of("accuracy", f"{victim}, {share:g} of {n_rows} rows, {n_seeds} seeds", truth, found)


# --- draws, subpopulations, clusters, rounds ---------------------------------------------------------------------------


def of_worlds(share: float, n_rows: int, n_draws: int, count: int) -> list[Coverage]:
    """Errors in two worlds: of n_rows test rows alike, a draw gets all right or all wrong (1), or each for itself."""
    generator = np.random.default_rng(2)
    errors = generator.binomial(n_rows, np.array([share, 1 - share])[:, None], (count, 2, n_draws)) / n_rows
    largest = float(errors.mean(2).max(1).mean())
    truth = {"error_sum": 1.0, "error_world_0": share, "error_worst": largest}
    found: dict[str, list[tuple]] = {name: [] for name in truth}
    for own in errors:
        for number in _sums(own, exact=True):
            if number.metric in truth:
                found[number.metric].append((number.value, number.half_width, NORMAL * number.std_error))
    point = f"errors {share:g} and {1 - share:g}, {n_rows} rows, {n_draws} draws"
    return [Coverage.of(name, point, truth[name], each) for name, each in found.items()]


def of_subpopulations(n: int, n_seeds: int, common: float, count: int) -> Coverage:
    """A mean over subpopulations and seeds, such as a point of a curve; common: deviation that a seed gives to all."""
    generator = np.random.default_rng(3)
    means = generator.beta(1, 2, (count, n, 1))
    values = (
        means + common * generator.standard_normal((count, 1, n_seeds)) + 0.1 * generator.standard_normal((count, n, n_seeds))
    )
    found = [(own.mean(), of_table(own), NORMAL * own.mean(1).std(ddof=1) / math.sqrt(n)) for own in values]
    return Coverage.of(
        "mean over subpopulations", f"{n} subpopulations, {n_seeds} seeds, common deviation {common:g}", 1 / 3, found
    )


TARGETS = {
    "cluster success Beta(1.5, 1.5)": ((1.5, 1.5), (20, 20)),
    "few clusters fall, Beta(.3, 2)": ((0.3, 2), (2, 14)),
    "all or nothing, Beta(.3, .3)": ((0.3, 0.3), (10, 10)),
    "equal, .1": ((1e6, 9e6), (1e6, 9e6)),
}


def of_target_sets(name: str, n_clusters: int, n_draws: int, count: int, n_sets: int = 10, size: int = 30) -> list[Coverage]:
    """Table 16: mean success of sets from clusters less that of random sets, over a population of clusters."""
    generator, (clusters, others) = np.random.default_rng(4), TARGETS[name]
    truth = clusters[0] / sum(clusters) - others[0] / sum(others)
    found, worst = [], []
    for _ in range(count):
        p = generator.beta(*clusters, n_clusters)
        own, random = [], []
        for _ in range(n_draws):
            rounds = -(-n_sets // n_clusters)
            chosen = np.concatenate([generator.permutation(n_clusters) for _ in range(rounds)])[:n_sets]
            never, start = np.full(n_sets, math.nan), np.ones(n_sets)
            own.append(Sets(generator.binomial(size, p[chosen]) / size, never, start, chosen))
            random.append(Sets(generator.binomial(size, generator.beta(*others, n_sets)) / size, never, start))
        numbers = {number.metric: number for number in differences(own, random)}
        low, high = (numbers[f"success_mean_difference_{end}"].value for end in ("low", "high"))
        mean = numbers["success_mean_difference"]
        found.append((mean.value, mean.half_width, (high - low) / 2))
        worst.append(numbers.get("success_worst_1_difference"))
    return [Coverage.of("success, clusters less random", f"{name}; {n_clusters} clusters, {n_draws} draws", truth, found)]


def of_worst_sets(n_draws: int, count: int, n_clusters: int = 12, n_sets: int = 10, size: int = 30) -> Coverage:
    """Table 16: worst-1 of clusters less worst-1 of random sets, over other draws of targets from the same clusters."""
    generator = np.random.default_rng(5)
    p = generator.beta(1.5, 1.5, n_clusters)
    values = []
    for _ in range(count * n_draws):
        own = generator.binomial(size, p[generator.permutation(n_clusters)[:n_sets]]) / size
        values.append((own, generator.binomial(size, generator.beta(20, 20, n_sets)) / size))
    truth = float(np.mean([own.max() - random.max() for own, random in values]))
    found = []
    for i in range(count):
        mine = values[i * n_draws : (i + 1) * n_draws]
        never, start = np.full(n_sets, math.nan), np.ones(n_sets)
        pairs = [[Sets(each[side], never, start) for each in mine] for side in (0, 1)]
        number = next(n for n in differences(*pairs) if n.metric == "success_worst_1_difference")
        _, _, low, high = welch(*(np.array([each[side].max() for each in mine]) for side in (0, 1)))
        found.append((number.value, number.half_width, (high - low) / 2))
    return Coverage.of("worst-1 success, clusters less random", f"{n_clusters} clusters, {n_draws} draws", truth, found)


def of_timings(n_rounds: int, slow: float, count: int) -> Coverage:
    """A ratio of seconds; slow: share of the runs that another process makes half as long again."""
    generator = np.random.default_rng(6)
    seconds = np.exp(0.05 * generator.standard_normal((2, count, n_rounds)))
    seconds *= np.where(generator.random(seconds.shape) < slow, 1.5, 1.0)
    seconds[1] *= 8
    many = np.exp(0.05 * generator.standard_normal((2, 200_001)))
    many *= np.where(generator.random(many.shape) < slow, 1.5, 1.0)
    truth = 8 * float(np.median(many[1]) / np.median(many[0]))
    found = []
    for ours, theirs in zip(*seconds, strict=True):
        ratio = float(np.median(theirs) / np.median(ours))
        found.append((ratio, of_rounds(theirs / ours, ratio), math.nan))
    return Coverage.of("speed ratio", f"{n_rounds} rounds, {slow:.0%} slowed down", truth, found)


# --- what has no interval ----------------------------------------------------------------------------------------------


def of_selection(count: int) -> list[str]:
    """What worst-1 and its lower estimate read, beside the truth, and how seldom an interval would contain the true worst-1."""
    told = []
    for damages, victim, n in (
        ("equal, .3", "exact", 10),
        ("equal, .3", "exact", 30),
        (".1 to .4", "exact", 10),
        (".1 to .4", "network", 10),
    ):
        point = Point(damages, victim, n)
        ranked = [ranked_of(changes) for changes in point.draw(np.random.default_rng(7), count)]
        read, error = np.array([(each.worst(1), each.std_error(1)) for each in ranked]).T
        picked = point.truth[[each.order[0] for each in ranked]].mean()
        lower = np.mean([each.selection_free(1) for each in ranked])
        truth = point.truth.max()
        naive = (np.abs(read - truth) <= NORMAL * error).mean()
        told.append([str(point), f"{truth:.3f}", f"{picked:.3f}", f"{read.mean():.3f}", f"{lower:.3f}", f"{100 * naive:.0f}"])
    header = ["grid point", "true worst-1", "true damage of the one ranked first", "worst-1 reads", "its lower estimate reads"]
    header.append("an interval of 1.96 standard errors would contain the true worst-1, %")
    lines = ["| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *told]]
    return ["\n".join(lines)]


def of_unsteady(count: int) -> list[str]:
    """Coverage beyond the grid."""
    points = [Point("equal, .02", "unsteady network", 30, 60, n_seeds) for n_seeds in (5, 10)]
    (five, ten) = (next(row for row in of_damages(p, count) if row.estimator == "mean damage").covered for p in points)
    return [
        "Beyond the grid, where all damages are .02 and a network's mean damage varies between seeds by nine tenths of its size, "
        "as in a few cells of the suites, the interval of the mean damage covers "
        f"{five:.0%} with 5 seeds and {ten:.0%} with 10."
    ]


def of_released(count: int) -> list[str]:
    """Why the difference to the released damages has no interval: what a Student interval would cover."""
    generator, shares = np.random.default_rng(8), []
    populations = [np.array([t.target_damage for t in trials_of(model, alpha)]) for model in VICTIMS_RELEASED for alpha in ALPHAS]
    for ours in populations:
        for theirs in populations:
            for n in (10, 30):
                first, second = generator.choice(ours, (count, n)), generator.choice(theirs, (count, 30))
                interval = ttest_ind(first, second, axis=1, equal_var=False).confidence_interval()
                truth = ours.mean() - theirs.mean()
                shares.append(float(((interval.low <= truth) & (truth <= interval.high)).mean()))
    return [
        f"Difference of means between 10 or 30 clusters and 30 released ones, drawn from released damages: Student's interval "
        f"would contain the difference of the populations in {min(shares):.0%} to {max(shares):.0%}, so none is given."
    ]


# --- the table --------------------------------------------------------------------------------------------------------


def simulate(count: int = 1000) -> list[Coverage]:
    """Every row of the table; count: simulated runs of a grid point."""
    found = [row for point in damage_grid() for row in of_damages(point, count if point.n_subpopulations < 30 else count // 2)]
    found += [
        of_accuracy(victim, share, n_rows, n_seeds, 4 * count)
        for victim in GRID
        for share in (0.7, 0.98)
        for n_rows in (20, 600)
        for n_seeds in (3, 5, 10)
    ]
    found += [row for p, m, n in [(0.5, 1, 30), (0.1, 1, 60), (0.2, 40, 30)] for row in of_worlds(p, m, n, 2 * count)]
    found += [of_subpopulations(*point, 2 * count) for point in [(16, 3, 0.0), (16, 5, 0.0), (16, 5, 0.1), (8, 10, 0.05)]]
    sets = [(12, 1), (12, 3), (5, 3), (20, 3), (20, 5)]
    found += [row for name in TARGETS for point in sets for row in of_target_sets(name, *point, count)]
    found += [of_worst_sets(n_draws, count) for n_draws in (3, 5, 10)]
    return found + [of_timings(n, slow, 2 * count) for n in (3, 6, 10) for slow in (0.0, 0.1)]


def table(rows: list[Coverage]) -> str:
    lines = ["| interval of | grid point | covers, % | mean width | before, % |", "|---|---|---|---|---|"]
    for row in rows:
        told = f"{100 * row.covered:.1f} ± {100 * row.error:.1f}" if row.printed else "no interval"
        told += f" (given in {row.printed:.0%})" if 0 < row.printed < 1 else ""
        width = f"{row.width:.3f}" if row.printed else "–"
        before = "–" if math.isnan(row.before) or "speed" in row.estimator else f"{100 * row.before:.1f}"
        lines.append(f"| {row.estimator} | {row.point} | {told} | {width} | {before} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="simulated runs of a grid point")
    parser.add_argument("--page", type=Path, help="write the table between the marks of this page")
    options = parser.parse_args()
    started = time.perf_counter()
    rows = simulate(options.count)
    lowest = min((row for row in rows if row.printed), key=lambda row: row.covered)
    words = [
        f"The lowest coverage of all {sum(row.printed > 0 for row in rows)} grid points that have an interval is "
        f"{100 * lowest.covered:.1f} % ({lowest.estimator}; {lowest.point}). "
        f"Simulated runs of a grid point: {options.count // 2:,} to {4 * options.count:,}.",
        *of_selection(2 * options.count),
        *of_released(4 * options.count),
        *of_unsteady(options.count),
    ]
    text = "\n\n".join([*words, table(rows)])
    print(text)
    print(f"\n{time.perf_counter() - started:.0f} s")
    if options.page:
        page = options.page.read_text(encoding="utf-8")
        if not MARK.search(page):
            raise SystemExit(f"{options.page} lacks the lines <!-- simulated --> and <!-- end -->; restore them")
        options.page.write_text(MARK.sub(lambda _: f"\n{text}\n\n", page), encoding="utf-8")


if __name__ == "__main__":
    main()
