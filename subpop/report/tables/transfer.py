"""Table 15: damage if the attacker clusters features of a different network than the victim's."""

from __future__ import annotations

from subpop.report.paper_tables import Column, Layout
from subpop.report.tables.poisoning import PaperTable

LAYOUT = Layout(
    {"clusters_on": "clusters on", "rate": "alpha"},
    [
        *(Column(f"worst-{k}", f"target_damage_worst_{k}_all") for k in (10, 5, 1)),
        *(Column(f"size, worst-{k}", f"mean_size_worst_{k}") for k in (10, 5, 1)),
        Column("collateral, max", "collateral_damage_max"),
        Column("at 15-16 %", "share_within_published"),
    ],
)


class Transfer(PaperTable):
    """Poisoning cells in a table with a row for each network whose features are clustered, and alpha."""

    layout = LAYOUT
