"""Whether one defense is better than another against the same attacks, judged from the damages of each subpopulation and seed.

Two defenses are compared on the same subpopulations and seeds, by the mean difference of their target damages. Only
subpopulations with an undefended damage of at least `HURT` count, because no defense can repair the others. A seed counts for a
subpopulation if the mean undefended damage over all *other* seeds of its split is that large: selection on the seeds that are
compared would prefer seeds with an accidentally large undefended damage, and every defense would look better than none.

The variance of the mean is that of a jackknife which leaves out one subpopulation at a time. Under a stochastic victim all
subpopulations share the training seeds, so that the variance of a jackknife over seeds is added; with several splits, one over
splits takes its place. The sum counts noise twice, and has the fewer degrees of freedom of the two, which is conservative: two or
three seeds of a network decide almost nothing. The verdict is about subpopulations, draws and seeds like those that were
measured.

The verdicts on all defenses that are compared with the same control are corrected together, by the procedure of Holm as Shaffer
(1986, Journal of the American Statistical Association 81) refined it: each defense has two hypotheses, no difference and no
equivalence, which cannot both be true, so that it counts once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from subpop.results.intervals import CONFIDENCE
from subpop.results.metrics import Doubles, eligible
from subpop.types import Array, BadInput, CellResult

HURT = 0.1
"""The smallest undefended damage of a subpopulation that counts."""
MARGIN = 0.05
"""Two defenses are equivalent if their mean damages differ by less than this."""
ERROR = 0.04
"""Nominal probability of at least one wrong verdict over all defenses that are compared with the same control. The selected
subpopulations vary with the draws, for which t tests do not account: the rest to 0.05 is for that."""
FEWEST_GROUPS = 3
BY_SEED = "target_damage_by_seed"
"""The array of a result with the target damage of each subpopulation (row of its table) and seed."""
BETTER, EQUIVALENT, UNDECIDED, WORSE = "better", f"equivalent within {100 * MARGIN:g} points", "undecided", "worse"
ORDER = (BETTER, EQUIVALENT, UNDECIDED, WORSE)


@dataclass(frozen=True)
class Difference:
    """The mean damage with a defense minus that with another one; negative if the defense is better."""

    value: float = math.nan
    std_error: float = math.nan
    freedom: float = math.nan
    """Degrees of freedom of the standard error."""
    n_groups: int = 0
    """The number of subpopulations that count."""
    reason: str = ""
    """Why there is no difference to judge; empty if there is one."""

    @property
    def p_difference(self) -> float:
        """The two-sided p value of no difference; 1 if there is nothing to judge."""
        return 1.0 if self.reason else min(1.0, 2 * self._tail(abs(self.value)))

    @property
    def p_equivalence(self) -> float:
        """The p value of a difference of at least `MARGIN`, the larger one of two one-sided tests."""
        return 1.0 if self.reason else self._tail(MARGIN - abs(self.value))

    @property
    def half_width(self) -> float:
        """Half the width of its 95 % interval; NaN if there is nothing to judge."""
        from scipy.special import stdtrit

        return math.nan if self.reason else float(stdtrit(self.freedom, (1 + CONFIDENCE) / 2)) * self.std_error

    def _tail(self, distance: float) -> float:
        """The probability that an estimate exceeds its expectation by so much."""
        from scipy.special import stdtr

        if not self.std_error:  # nothing varies: the difference is known exactly
            return 0.0 if distance > 0 else 1.0
        return float(stdtr(self.freedom, -distance / self.std_error))


@dataclass(frozen=True)
class Judged:
    """A difference with its verdict, one of ORDER."""

    verdict: str
    difference: Difference

    @property
    def rank(self) -> tuple[int, float]:
        """Sorts defenses that were compared with the same control, the best first: by verdict, then by difference."""
        value = self.difference.value
        return ORDER.index(self.verdict), math.inf if math.isnan(value) else value


def damages_by_seed(result: CellResult) -> pd.DataFrame:
    """Return the target damages of a cell for comparisons of defenses: rows are (split, subpopulation), columns seeds.

    Only subpopulations that are large enough for worst-k; none for a result without such damages.
    """
    found, table = result.arrays.get(BY_SEED, np.empty((0, 0))), result.table
    kept = [i for i, row in enumerate(table[: len(found)]) if eligible(float(row["n_test"]))]
    names = [str(table[i]["subpopulation"]) for i in kept]
    return pd.DataFrame(found[kept], _in_split(result.cell.option("split", "0"), names))


def _in_split(split: str, names: Sequence[str]) -> pd.MultiIndex:
    """The index (split, subpopulation) of subpopulations of one split. (`from_tuples` takes twenty times as long.)"""
    place = {name: i for i, name in enumerate(dict.fromkeys(names))}
    codes = [[0] * len(names), [place[name] for name in names]]
    levels = [[split] if names else [], list(place)]
    return pd.MultiIndex(levels, codes, names=["split", "subpopulation"], verify_integrity=False)


def paired_difference(defense: pd.DataFrame, other: pd.DataFrame, undefended: pd.DataFrame, *, exact: bool = False) -> Difference:
    """Compare the damages of two defenses over the subpopulations that the undefended attack hurts.

    Parameters
    ----------
    defense, other
        Target damages: one row per subpopulation, with the index (split, name), and one column per seed. Rows and columns are
        paired by their labels; those that are not in all three tables are left out.
    undefended
        The damages without a defense, which select the subpopulations. It may be the same table as `other`.
    exact
        Whether training has no randomness, so that subpopulations share nothing under the same seed.

    Returns
    -------
    Difference
        The mean difference with its standard error, or the reason why there is none.

    Raises
    ------
    BadInput
        If a table contains the same subpopulation or seed twice, or a damage that is not finite.

    Examples
    --------
    >>> import pandas as pd
    >>> groups = pd.MultiIndex.from_product([["0"], ["a", "b", "c"]])
    >>> none = pd.DataFrame([[0.4, 0.5], [0.3, 0.3], [0.5, 0.4]], groups)
    >>> found = paired_difference(none - 0.2, none, none)
    >>> round(found.value, 3), found.n_groups
    (-0.2, 3)
    """
    tables = (defense, other, undefended)
    for table in tables:
        if not (table.index.is_unique and table.columns.is_unique and np.isfinite(table.to_numpy(float)).all()):
            raise BadInput(
                "a table of damages has a subpopulation or seed twice, or a damage that is not finite; give one finite damage "
                "for each subpopulation (split, name) and seed"
            )
    index, seeds = defense.index, defense.columns
    for table in (other, undefended):
        index, seeds = index.intersection(table.index, sort=False), seeds.intersection(table.columns, sort=False)
    ours, theirs, plain = (table.reindex(index=index, columns=seeds).to_numpy(float) for table in tables)
    splits, names = (pd.factorize(index.get_level_values(level))[0] for level in (0, 1))
    return difference_of(ours - theirs, plain, splits, names, exact=exact)


def difference_of(differences: Doubles, undefended: Doubles, splits: Array, names: Array, *, exact: bool = False) -> Difference:
    """`paired_difference` for arrays.

    differences, undefended: (S, n_seeds); splits, names: (S,) integers, which subpopulations are of the same split and which
    have the same name.
    """
    n_seeds = differences.shape[1]
    if n_seeds < 2:
        return Difference(reason=f"{n_seeds or 'no'} common seed{'' if n_seeds else 's'}; 2 are needed")
    counted = selected(undefended)
    n_groups = len(np.unique(names[counted.any(axis=1)]))
    if n_groups < FEWEST_GROUPS:
        return Difference(n_groups=n_groups, reason=f"{n_groups} subpopulations are hurt; {FEWEST_GROUPS} are needed")
    value = float(differences[counted].mean())
    several = len(np.unique(splits[counted.any(axis=1)])) > 1
    clusters = [names[:, None]]
    if several or not exact:
        clusters.append(splits[:, None] if several else np.arange(n_seeds))
    found = [_jackknife(differences - value, counted, np.broadcast_to(labels, counted.shape)) for labels in clusters]
    if min(freedom for _, freedom in found) <= 0:
        return Difference(n_groups=n_groups, reason="subpopulations are hurt under one seed only; 2 are needed")
    return Difference(value, math.sqrt(sum(each for each, _ in found)), min(freedom for _, freedom in found), n_groups)


def selected(undefended: Doubles) -> Array:
    """Return (S, n_seeds) bool: where the mean undefended damage over the other seeds is at least `HURT`."""
    n_seeds = undefended.shape[1]
    others = (undefended.sum(axis=1, keepdims=True) - undefended) / (n_seeds - 1)
    return np.asarray(others >= HURT - 1e-12)


def _jackknife(rest: Doubles, counted: Array, labels: Array) -> tuple[float, float]:
    """The variance of the mean from leaving out one cluster at a time, and its degrees of freedom.

    rest: values minus their mean. Clusters of unequal size count as fewer: the square of the sum of their sizes, divided by the
    sum of the squares.
    """
    sizes = np.bincount(labels.ravel(), counted.ravel())
    sums = np.bincount(labels.ravel(), np.where(counted, rest, 0.0).ravel())[sizes > 0]
    sizes, total = sizes[sizes > 0], sizes.sum()
    if len(sizes) < 2:
        return math.inf, 0.0
    moves = sums / (total - sizes)  # of the mean, where a cluster is left out
    return float((moves**2).sum() * (len(sizes) - 1) / len(sizes)), float(total**2 / (sizes**2).sum()) - 1


def judge(differences: Mapping[str, Difference]) -> dict[str, Judged]:
    """Give the verdicts on all defenses that are compared with the same control.

    The probability of at least one wrong verdict among them is at most 5 %. A defense that is better or worse, but equivalent as
    well, counts as equivalent.

    Parameters
    ----------
    differences
        The difference of each defense from the control, by the defense's name.

    Returns
    -------
    dict of str to Judged
        The verdict on each of them.

    Examples
    --------
    >>> found = judge({"good": Difference(-0.3, 0.02, 9, 10), "idle": Difference(0.0, 0.01, 9, 10)})
    >>> [each.verdict for each in found.values()]
    ['better', 'equivalent within 5 points']
    """
    p_values = {(name, "different"): each.p_difference for name, each in differences.items() if not each.reason}
    p_values |= {(name, "equivalent"): each.p_equivalence for name, each in differences.items() if not each.reason}
    shown: set[tuple[str, str]] = set()
    for hypothesis in sorted(p_values, key=lambda each: p_values[each]):
        n_open = len({name for name, _ in set(p_values) - shown})
        if p_values[hypothesis] > ERROR / n_open:
            break
        shown.add(hypothesis)
    verdicts = {}
    for name, each in differences.items():
        verdict = UNDECIDED
        if (name, "equivalent") in shown:
            verdict = EQUIVALENT
        elif (name, "different") in shown:
            verdict = BETTER if each.value < 0 else WORSE
        verdicts[name] = Judged(verdict, each)
    return verdicts
