"""The committed report in `reports/`: for each tier the leaderboard as data, and pages that are rendered from it alone.

`publish` writes `reports/<tier>/leaderboard.json` from a run: the rows of its leaderboard, without times and names of machines;
the rows of stochastic victims, if they have a leaderboard of their own, are in `leaderboard-stochastic.json`.
`render` writes what readers see, from these files: `README.md` and a figure for each tier, and the beginning of the project's
README. Rendering twice gives the same text, so that a test can compare it with what is committed. Nothing trains here.

`python -m subpop.report.published` renders everything in the clone again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from subpop.report.board_figure import alt_of, caption_of, draw_boards
from subpop.report.board_table import board_table
from subpop.report.front_page import said, said_of_second
from subpop.report.leaderboard import Context, Entry, Estimate, Leaderboard, Payer, Rank
from subpop.report.markdown import escape
from subpop.report.opening import PURPOSE
from subpop.results.paired import Difference, Judged
from subpop.runtime.writing import write_atomically
from subpop.types import BadInput

SCHEMA = 2
DIGITS = 4
"""Digits behind the point that are kept: a hundredth of a percentage point."""
FOLDER, PAGE = "reports", "README.md"
DATA = ("leaderboard.json", "leaderboard-stochastic.json")
"""The files of the boards of a tier."""
BEGIN, END = "<!-- The leaderboard, written by `python -m subpop.report.published`. -->", "<!-- The end of the leaderboard. -->"
ON_README = 12
"""Defenses in the project's README."""


def publish(boards: Sequence[Leaderboard], folder: Path) -> list[Path]:
    """Write the file of each board into the folder of its tier; returns the paths."""
    written = []
    for board in boards:
        path = folder / board.tier / DATA[board.stochastic]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(_as_data(board), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
        written.append(path)
    return written


def render(folder: Path, readme: Path | None = None) -> None:
    """Write the pages of every tier of a folder of reports, and the beginning of the project's README."""
    boards = published_boards(folder)
    for tier, own in _by_tier(boards).items():
        for picture in draw_boards(own, folder / tier):
            (folder / tier / f"{picture.name}.png").unlink()  # readers and git need one of the two
        write_atomically(folder / tier / PAGE, tier_page(own))
    if readme is not None:
        write_atomically(readme, with_leaderboard(readme.read_text(encoding="utf-8"), boards))


def published_boards(folder: Path) -> list[Leaderboard]:
    """The boards of a folder of reports, in the order of their tiers; raises BadInput for a file that is not a board."""
    return [read_board(path) for tier in sorted(folder.iterdir()) for name in DATA if (path := tier / name).is_file()]


def _by_tier(boards: Sequence[Leaderboard]) -> dict[str, list[Leaderboard]]:
    return {tier: [board for board in boards if board.tier == tier] for tier in dict.fromkeys(board.tier for board in boards)}


def read_board(path: Path) -> Leaderboard:
    """The board of a leaderboard.json that `publish` wrote; raises BadInput for any other file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["schema"] != SCHEMA:
            raise BadInput(f"{path} has schema {found['schema']}; this subpop reads schema {SCHEMA}: publish the report again")
        contexts = tuple(Context(**{**each, "setting": tuple(map(tuple, each["setting"]))}) for each in found["contexts"])
        entries, controls = (tuple(_entry(each) for each in found[name]) for name in ("entries", "controls"))
        return Leaderboard(found["tier"], tuple(found["stems"]), contexts, entries, controls, path.name == DATA[True])
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(
            f"{path} cannot be read as a published leaderboard ({type(error).__name__}: {error}); write it with "
            "`subpop report --publish reports`"
        ) from error


def tier_page(boards: Sequence[Leaderboard]) -> str:
    """The page of a tier as markdown: of each board three sentences, all rows and controls, and the figure."""
    first = boards[0]
    blocks = [f"# The {escape(first.tier)} tier"]
    for board in boards:
        data = DATA[board.stochastic]
        blocks += [
            *([f"## {escape(', '.join(board.victims))}"] if len(boards) > 1 else []),
            f"Reference numbers, rendered from [{data}]({data}) by `python -m subpop.report.published`.",
            said(board),
            *board_table(board),
            f"![{escape(alt_of(board))}]({board.file_name}.svg)",
            caption_of(board),
        ]
    return "\n\n".join([*blocks, PURPOSE]) + "\n"


def with_leaderboard(readme: str, boards: Sequence[Leaderboard]) -> str:
    """The text of the project's README with the first board at its place between BEGIN and END."""
    before, _, rest = readme.partition(f"{BEGIN}\n")
    _, found, after = rest.partition(f"{END}\n")
    if not (found and boards):
        raise BadInput(f"the README has no lines {BEGIN!r} and {END!r}, or no report is published; restore them")
    board, *others = boards
    pages = ", ".join(f"[{tier}]({FOLDER}/{tier}/{PAGE})" for tier in _by_tier(boards))
    figure = f"{FOLDER}/{board.tier}/{board.file_name}.svg"
    table, legend = board_table(board, ON_README)
    legend = legend.replace("[details](details.md)", f"[report]({FOLDER}/{board.tier}/{PAGE})")
    second = [said_of_second(each) for each in others if each.tier == board.tier]
    picture = f"![{escape(alt_of(board))}]({figure})"
    shown = [said(board), *second, table, legend, picture, f"{caption_of(board)} Reports: {pages}."]
    return before + f"{BEGIN}\n" + "\n\n".join(shown) + f"\n{END}\n" + after


def _as_data(board: Leaderboard) -> dict[str, Any]:
    """The board as plain data without times, with rounded numbers."""
    rows = {
        name: [_rounded(asdict(replace(entry, seconds=None))) for entry in entries]
        for name, entries in (("entries", board.entries), ("controls", board.controls))
    }
    contexts = [context._asdict() for context in board.contexts]
    return {"schema": SCHEMA, "tier": board.tier, "stems": board.stems, "contexts": contexts, **rows}


def _rounded(value: Any) -> Any:
    """Plain data with floats rounded, and None for those that are not finite."""
    if isinstance(value, Mapping):
        return {name: _rounded(each) for name, each in value.items()}
    if isinstance(value, float):
        return round(value, DIGITS) + 0.0 if abs(value) < float("inf") else None
    return value


def _entry(row: Mapping[str, Any]) -> Entry:
    judged, nan = row["judged"], float("nan")
    difference: dict[str, Any] = {}
    if judged:
        difference = {name: nan if value is None else value for name, value in judged["difference"].items()}
    return Entry(
        **{
            **row,
            "damage": Estimate(**row["damage"]),
            "rank": row["rank"] and Rank(**row["rank"]),
            "tuned": row["tuned"] and Estimate(**row["tuned"]),
            "payer": row["payer"] and Payer(**row["payer"]),
            "judged": Judged(judged["verdict"], Difference(**difference)) if judged else None,
        }
    )


if __name__ == "__main__":
    root = Path(__file__).parents[2]
    render(root / FOLDER, root / "README.md")
    sys.exit(0)
