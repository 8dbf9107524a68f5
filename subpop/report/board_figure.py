"""The figure of a leaderboard: what each defense changes compared with no defense, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from subpop.report.figures import Picture, content_key, draw_once, file_name
from subpop.report.figures.differences import Line, leaderboard_figure
from subpop.report.leaderboard import LEVELS, Leaderboard
from subpop.results.paired import UNDECIDED

CAPTION = (
    "Target damage of each defense less that of no defense, with 95 % intervals of the paired difference over the subpopulations "
    "that are hurt without a defense; the colour is the verdict, which is corrected for the number of defenses."
)
BARE = (
    "Target damage of each defense less that of no defense, without intervals: no paired difference could be judged, because too "
    "few subpopulations are hurt without a defense or their damages are not known."
)


def draw_boards(boards: Sequence[Leaderboard], directory: Path) -> list[Picture]:
    """Draw one figure for each board into the folder `directory`."""
    pictures = []
    for board in boards:
        if not board.entries:
            continue
        path, lines = directory / file_name(board.file_name), lines_of(board)
        draw_once(partial(leaderboard_figure, lines), path, content_key([], repr(lines)))
        pictures.append(Picture(path.name, "leaderboard", "", board.tier, "", alt_of(board), caption_of(board)))
    return pictures


def alt_of(board: Leaderboard) -> str:
    """The text that stands for the figure of a board."""
    changes = "1 defense changes" if len(board.entries) == 1 else f"{len(board.entries)} defenses change"
    return f"what {changes} compared with no defense, {board.title}"


def caption_of(board: Leaderboard) -> str:
    """The caption of the figure of a board."""
    return CAPTION if any(line.half_width is not None for line in lines_of(board)) else BARE


def lines_of(board: Leaderboard) -> list[Line]:
    """The rows of the figure: a heading for each level, and its defenses."""
    lines = []
    for level, entries in board.levels.items():
        lines.append(Line(LEVELS[level]))
        for entry in entries:
            judged, n = entry.judged, len(board.contexts)
            name = f"{entry.defense} ({n - entry.n_missing} of {n} cells)" if entry.n_missing else entry.defense
            if judged and not judged.difference.reason:
                found = judged.difference
                lines.append(Line(name, found.value, found.half_width, judged.verdict))
            else:
                lines.append(Line(name, entry.damage.value - board.undefended_damage(entry), None, UNDECIDED))
    return lines
