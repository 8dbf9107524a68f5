"""The front page of a report, one screen: whether the run passed, three sentences, the leaderboard, links to the other pages."""

from __future__ import annotations

from collections.abc import Sequence

from subpop.report.board_table import board_table
from subpop.report.claims import VERDICTS
from subpop.report.claims_table import findings
from subpop.report.details import attacks_section
from subpop.report.figures import Picture
from subpop.report.leaderboard import Leaderboard, leaderboards
from subpop.report.leftovers import FRONT_TITLE
from subpop.report.markdown import escape, picture
from subpop.report.opening import PURPOSE, RunInfo, drift_words, failures, lead, left_out, made_by, skipped, suite_links
from subpop.report.sentences import answers
from subpop.report.verdict import so_far
from subpop.types import CellReport

QUESTIONS = ("How bad is it?", "What helps?", "What does it cost?")
MOST_ROWS = 24
"""Defenses that the front page shows for all tiers together; the others are counted."""
UNFINISHED = "The tables, figures and pages are written when the run ends."
NO_BOARD = "No defense was measured alongside an undefended victim, so there is no leaderboard."


def front_page(reports: Sequence[CellReport], run: RunInfo, pictures: Sequence[Picture] = ()) -> str:
    """Return the front page as markdown; of a running session, its progress. pictures: the figures of its leaderboards."""
    failed = run.standing.also_failed if run.standing else ()
    first = [FRONT_TITLE, lead(reports, run)]
    problems = [*failures(reports, failed), *skipped(reports)]
    if run.standing and run.standing.exit_status is None:
        return _page([*first, *_about(run), *problems, UNFINISHED])
    boards = leaderboards(reports)
    tables = [board for board in boards if not board.stochastic]
    begin, most, named = so_far(reports, run.standing), MOST_ROWS // max(1, len(tables)), len(tables) > 1
    shown = [block for board in boards for block in _board(board, most, named=named, begin=begin)]
    shown = shown or [NO_BOARD, *attacks_section(reports)]
    drawn = [picture(each.name, each.alt, each.caption, "") for each in pictures]
    return _page([*first, *problems, *shown, _links(reports, run), *_about(run), *drawn])


def _page(blocks: Sequence[str]) -> str:
    return "\n\n".join(blocks) + "\n"


def _about(run: RunInfo) -> list[str]:
    return [f"{made_by(run)} {PURPOSE}", *drift_words(run.drifts), *left_out(run.left_out)]


def said(board: Leaderboard, begin: str = "") -> str:
    """The three sentences about a board, as a list."""
    return "\n".join(
        f"- **{question}** {escape(words)}" for question, words in zip(QUESTIONS, answers(board, begin), strict=True)
    )


def said_of_second(board: Leaderboard, begin: str = "") -> str:
    """The same about a tier's board of stochastic victims, as one paragraph."""
    found = answers(board)
    return f"**And on {escape(', '.join(board.victims))}?** {escape(begin + ' '.join((found.how_bad, found.what_helps)))}"


def _board(board: Leaderboard, most: int, *, named: bool, begin: str) -> list[str]:
    if board.stochastic:
        return [f"{said_of_second(board, begin)} All its rows are in the [details](details.md)."]
    heading = [f"## The {escape(board.title)}"] if named else []
    return [*heading, said(board, begin), *board_table(board, most)]


def _links(reports: Sequence[CellReport], run: RunInfo) -> str:
    verdicts = [finding.verdict for finding in findings(reports)]
    counts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in VERDICTS if verdict in verdicts)
    claims = f" Claims of the paper, each in each set-up: {counts}." if counts else ""
    return (
        f"[index.html](index.html): to sort, filter and open cells. [Details](details.md): every set-up, alpha and control, "
        f"claims and tables of the paper, speed, terms.{claims} "
        f"Suites: {suite_links(reports, run)}. All numbers: [results.json](results.json)."
    )
