"""The table of docs/roofline.md from reports of the speed suites: `python tests/roofline_table.py results.json [...]`.

A report is made by `python -m pytest benchmarks/ --tier laptop -k speed`; of several, the medians are shown. `--page PAGE` writes
the table between the marks of a page.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

MARK = re.compile(r"(?<=<!-- measured -->\n).*(?=<!-- end -->)", re.DOTALL)
SECONDS = ("fleet_seconds", "cached_seconds", "certificate_seconds", "iteration_seconds")
"""Metrics of the time in which the products are done; a cell has one of them."""
SHARE = "share_of_matrix_product"


def table(reports: Sequence[Path]) -> str:
    """One line for each cell that has a share, as markdown."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for report in reports:
        for row in json.loads(report.read_text(encoding="utf-8"))["cells"]:
            if not row["subpopulation"]:
                defended = "" if row["defense"] == "none" else f" with {row['defense']}"
                name = f"{row['victim']}{defended} on {row['dataset']} ({row['setting'].replace('against=', 'against ')})"
                found[name][row["metric"]].append(row["value"])
    lines = [
        "| fleet | seconds | GFLOP/s | of matrix products | GB of products | MB above the data |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, own in found.items():
        if SHARE in own:
            seconds, gflops, share, moved, peak = (
                next((statistics.median(own[metric]) for metric in metrics if metric in own), float("nan"))
                for metrics in (SECONDS, ("gflops",), (SHARE,), ("product_gigabytes",), ("peak_megabytes",))
            )
            lines.append(f"| {name} | {seconds:.3g} | {gflops:.1f} | {share:.0%} | {moved:.3g} | {peak:.0f} |")
    return "\n".join(lines).replace("nan", "–")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", nargs="+", type=Path, help="results.json of a run of the speed suites")
    parser.add_argument("--page", type=Path, help="write the table into this page")
    args = parser.parse_args()
    made = table(args.reports)
    print(made)
    if args.page:
        page = args.page.read_text(encoding="utf-8")
        args.page.write_text(MARK.sub(lambda _: made + "\n", page), encoding="utf-8")


if __name__ == "__main__":
    main()
