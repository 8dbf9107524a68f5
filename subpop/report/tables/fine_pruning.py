"""Table 12: accuracy of the attacked, the pruned and the fine-tuned model by subpopulation and size of the holdout."""

from __future__ import annotations

from subpop.report.paper_tables import Column, Layout
from subpop.report.tables.poisoning import PaperTable

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


class FinePruning(PaperTable):
    """Poisoning cells in a table with a row for each subpopulation, holdout and defense."""

    layout = LAYOUT
