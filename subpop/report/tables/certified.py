"""Tables 13 and 14: worst-k damage before and after the certified defense, and certified damage."""

from __future__ import annotations

from subpop.report.paper_tables import Column, Layout
from subpop.report.tables.poisoning import PaperTable

DEFENDED = "label_flip_smoothing"
PAIRS = [
    Column(f"worst-{k} {when}", f"target_damage_worst_{k}_all", defense)
    for k in (1, 5, 10)
    for when, defense in (("before", "none"), ("after", DEFENDED))
]
LAYOUT = Layout(
    {"rate": "alpha"},
    [
        *PAIRS,
        Column("worst-5 certified (exact)", "certified_damage_worst_5:exact", DEFENDED),
        Column("without damage, before", "share_without_damage", "none"),
    ],
)


class Certified(PaperTable):
    """Poisoning cells in a table with the undefended and the defended victim in the same row."""

    layout = LAYOUT
