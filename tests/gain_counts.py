"""How often optimised poison does more damage than flipped labels, by the baselines: `python tests/gain_counts.py`."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

BASELINES = Path(__file__).parents[1] / "baselines" / "optimised_poison.csv"


def gain_counts() -> pd.DataFrame:
    """A row for each data set and one for all: cells, cells with a gain above zero, and the largest gain with its setting."""
    rows = pd.read_csv(BASELINES)
    gains = rows[rows.metric == "gain_over_label_flip"]
    groups = [("all", gains), *gains.groupby("dataset")]
    found = []
    for name, own in groups:
        best = own.loc[own.value.idxmax()]
        box = best.setting if isinstance(best.setting, str) else "no epsilon (the whole range of a column)"
        found.append((name, len(own), int((own.value > 0).sum()), best.value, f"{best.attack}, alpha {best.rate:g}, {box}"))
    return pd.DataFrame(found, columns=["dataset", "cells", "above", "largest", "of"]).set_index("dataset")


if __name__ == "__main__":
    print(gain_counts().to_string())
