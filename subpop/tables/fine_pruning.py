"""Table 12: accuracy of the attacked, the pruned and the fine-tuned model by subpopulation and size of the holdout."""

from __future__ import annotations

from collections.abc import Sequence

from subpop.report.paper_tables import Column, Layout, paper_tables
from subpop.tables.poisoning import Poisoning
from subpop.types import CellReport

STAGES = {"attacked": "attacked", "pruned": "pruned", "finetuned": "fine-tuned"}
LAYOUT = Layout(
    {"subpopulation": "subpopulation", "holdout": "holdout", "defense": "defense"},
    [
        *(
            Column(f"{title} {where}", f"{stage}_{where}_accuracy")
            for stage, title in STAGES.items()
            for where in ("test", "target")
        ),
        Column("fine-tuned target, sd", "finetuned_target_accuracy_sd"),
    ],
)


class FinePruning(Poisoning):
    """Poisoning cells, laid out with a row for each subpopulation."""

    on_scoreboard = False

    def tables(self, reports: Sequence[CellReport]) -> list[str]:
        """A row for each subpopulation, holdout and defense."""
        return paper_tables(LAYOUT, reports)
