"""Certified damage of an ensemble: the target damage that no attack with as many poison rows can exceed.

The base is the ensemble on clean data, and all poison rows count as insertions. The collective certificate bounds how many test
rows of a subpopulation one attack can turn, the pointwise one adds up rows that may need different attacks; rows that are
wrong on clean data count as wrong in both. Damage is relative to the clean undefended victim, like target damage, which it
bounds for each subpopulation and seed.
"""

from __future__ import annotations

import numpy as np

from subpop.results.metrics import Doubles
from subpop.results.summary.ranked import Ranked, chosen_over_seeds, over_seeds
from subpop.results.summary.subpopulation import Subpopulation
from subpop.types import Number

COUNT, POINTWISE, SOLVED = 1, 2, 3
"""Columns of `most_wrong`."""


def collective_numbers(ranked: Ranked) -> list[Number]:
    """Mean and worst-k collective damage at the attack's number of rows, the mean pointwise damage, the share of the certificates
    that say anything, and the mean damage at other numbers of insertions; nothing without votes."""
    parts = ranked.parts
    if not parts or any(part.most_wrong is None for part in parts):
        return []
    damage = np.stack([certified_damage(part, 0, COUNT) for part in parts])
    wrong = np.stack([_column(part, 0, COUNT) for part in parts])
    sizes = np.array([[part.sizes["n_test"]] for part in parts])
    numbers = [
        over_seeds("collective_damage_mean", damage),
        *(chosen_over_seeds(f"collective_damage_worst_{k}", damage[ranked.order[:k]]) for k in ranked.ranks),
        over_seeds("pointwise_damage_mean", np.stack([certified_damage(part, 0, POINTWISE) for part in parts])),
        over_seeds("collective_share", (wrong < sizes).astype(float)),
        over_seeds("collective_solved", np.stack([_column(part, 0, SOLVED) for part in parts])),
    ]
    first = parts[0].most_wrong
    points = [] if first is None else first[0, 1:, 0].tolist()
    return numbers + [
        over_seeds(f"collective_damage_mean_at_{m}", np.stack([certified_damage(part, i, COUNT) for part in parts]))
        for i, m in enumerate(points, start=1)
    ]


def certified_damage(part: Subpopulation, point: int, column: int) -> Doubles:
    """(n_seeds,) accuracy of the clean victim on a subpopulation less the smallest that is certified."""
    return np.asarray(part.bits.clean.mean(axis=1) - 1 + _column(part, point, column) / part.sizes["n_test"])


def _column(part: Subpopulation, point: int, column: int) -> Doubles:
    assert part.most_wrong is not None
    return part.most_wrong[:, point, column].astype(np.float64)
