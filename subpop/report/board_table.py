"""A leaderboard as a markdown table with a legend, on the front page and, with every row, on the page of details."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest

from subpop.report.figures.setups import percent, short
from subpop.report.leaderboard import LEVELS, Entry, Leaderboard
from subpop.report.markdown import escape, table
from subpop.results.intervals import CONFIDENCE
from subpop.results.paired import EQUIVALENT, HURT, MARGIN


def board_table(board: Leaderboard, most: int | None = None) -> list[str]:
    """The blocks of a board: the table and its legend.

    most: the number of defenses of the front page, which has no controls; None: all of them, and the controls.
    """
    lines = _lines(board, most)
    columns = _columns([entry for _, entry in lines if entry and not entry.is_control], board, settings=most is None)
    left = 0 if most is None else max(0, len(board.entries) - most)
    more = f" {left} more defenses are in the [details](details.md)." if left else ""
    headers = [column for column, _ in columns]
    rows = [[name, *(of(entry) if entry else "" for _, of in columns)] for name, entry in lines]
    return [table(["defense", *headers], rows), _legend(board, headers) + more]


def _lines(board: Leaderboard, most: int | None) -> list[tuple[str, Entry | None]]:
    """No defense, then the defenses by what they know, then controls; None for a heading. Of many, the best of each level."""
    lines: list[tuple[str, Entry | None]] = [("**no defense**", board.undefended)]
    by_turns = [entry for turn in zip_longest(*board.levels.values()) for entry in turn if entry is not None]
    chosen = {entry.defense for entry in by_turns[:most]}
    groups = {LEVELS[level]: entries for level, entries in board.levels.items()}
    if most is None and board.controls[1:]:
        groups["controls"] = board.controls[1:]
    for title, entries in groups.items():
        own = [(escape(entry.defense), entry) for entry in entries if entry.is_control or entry.defense in chosen]
        lines += [(f"*{title}*", None), *own] if own else []
    return lines


Column = tuple[str, Callable[[Entry], str]]


def _columns(shown: Sequence[Entry], board: Leaderboard, *, settings: bool) -> list[Column]:
    """The columns that some defense fills. settings: whether those of tuned defenses are shown."""
    several = len(board.datasets) > 1
    every: list[Column] = [
        ("rank", _rank),
        ("damage", _damage),
        ("tuned", lambda entry: _tuned(entry, settings=settings)),
        ("against none", _against_none),
        (f"groups ≥ {100 * HURT:g}", lambda entry: _percent(entry.hurt_share, 0)),
        ("collateral", lambda entry: _percent(entry.collateral)),
        ("clean lost", lambda entry: _percent(entry.clean_cost)),
        ("who pays", lambda entry: _payer(entry, several)),
        ("recall / random", _recall),
        ("certified", _certified),
        ("fits", _fits),
        ("time", _time),
        ("integrity", lambda entry: escape(short(entry.integrity, 80))),
        ("cells missing", lambda entry: str(entry.n_missing or "")),
    ]
    return [(name, of) for name, of in every if any(of(entry) for entry in shown)]


def _percent(value: float | None, digits: int = 1) -> str:
    return "" if value is None else percent(value, digits)


def _rank(entry: Entry) -> str:
    """`2 (1–3)`."""
    rank = entry.rank
    if rank is None:
        return ""
    return f"{rank.value}" if rank.low is None or rank.low == rank.high else f"{rank.value} ({rank.low}–{rank.high})"


def _damage(entry: Entry) -> str:
    """`31.6 (25.2–37.9)`, and what no defense has on the cells of a defense that lacks some: `31.6 (25.2–37.9), none 40.0`."""
    found = entry.damage
    beside = "" if entry.undefended is None else f", none {percent(entry.undefended)}"
    return percent(found.value) + (f" ({percent(found.low)}–{percent(found.high)})" if found.low is not None else "") + beside


def _tuned(entry: Entry, *, settings: bool) -> str:
    """`28.4`, or with the settings `28.4 (k=5)`."""
    if entry.tuned is None:
        return ""
    return percent(entry.tuned.value) + (f" ({escape(settings_in(entry.tuned_as))})" if settings else "")


def settings_in(name: str) -> str:
    """The settings in the name of a defense: `k=5` of `dpa(k=5)`, or `defaults`."""
    return name.partition("(")[2].removesuffix(")") or "defaults"


def _against_none(entry: Entry) -> str:
    if entry.judged is None:
        return ""
    found = entry.judged.difference
    verdict = "equivalent" if entry.judged.verdict == EQUIVALENT else entry.judged.verdict
    return verdict if found.reason else f"{verdict} ({signed(found.value)})"


def signed(value: float) -> str:
    """A difference of fractions in points, with its sign: `-1.1`, `+0.3`, `0.0`."""
    text = f"{100 * value:+.1f}"
    return text if float(text) else "0.0"


def _payer(entry: Entry, several: bool) -> str:
    found = entry.payer
    if found is None:
        return ""
    dataset = f" of {found.dataset}" if several else ""
    return escape(f"{found.subpopulation}{dataset}: {percent(found.cost)}")


def _recall(entry: Entry) -> str:
    """The recall of a filter, then that of its matched control."""
    other = f" / {percent(entry.matched_recall)}" if entry.matched_recall is not None else ""
    return f"{percent(entry.recall)}{other}" if entry.recall is not None else ""


def _certified(entry: Entry) -> str:
    """The damage that the best of its certificates does not rule out."""
    return percent(min(entry.certified.values())) if entry.certified else ""


def _fits(entry: Entry) -> str:
    """`own` if it trains without `fit`."""
    return "" if entry.fits is None else f"{entry.fits:.3g}" if entry.fits else "own"


def _time(entry: Entry) -> str:
    if entry.seconds is None:
        return ""
    return f"{entry.seconds:.0f}x" if entry.seconds >= 10 else f"{entry.seconds:.2g}x"


MEANINGS = {
    "rank": f"with its {CONFIDENCE:.0%} interval, as all intervals here".replace("%", " %"),
    "damage": "accuracy that an attacked subpopulation loses, averaged over the subpopulations of all splits",
    "tuned": "damage with the best of up to eight configurations, chosen on development splits and subpopulations",
    "against none": "verdict and mean difference on the subpopulations that are hurt without a defense, each averaged over its "
    f"splits first, so that it is not the difference of two damages; *equivalent*: within {100 * MARGIN:g} points",
    f"groups ≥ {100 * HURT:g}": f"share of subpopulations that lose {100 * HURT:g} or more",
    "collateral": "the most that all other rows lose",
    "clean lost": "accuracy given up when nobody attacks; negative: gained",
    "who pays": "the subpopulation that loses most when nobody attacks",
    "recall / random": "flipped rows removed by the filter and, where measured, by a random one that removes as many rows of "
    "each class",
    "certified": "damage that a certificate does not rule out",
    "fits": "victims trained in a trial; *own*: its own training loop",
    "time": "relative to plain training",
    "integrity": "what the probes of a plug-in found",
    "cells missing": "cells in which a defense failed or was not measured: its numbers, and the damage of "
    "no defense beside its own, are those of the other cells, and it has no rank",
}


def _legend(board: Leaderboard, headers: Sequence[str]) -> str:
    meanings = "; ".join(f"**{header}**: {MEANINGS[header]}" for header in headers if header in MEANINGS)
    n, several = len(board.contexts), len(board.datasets) > 1
    victims = sorted({context.victim for context in board.contexts})
    made_of = escape(f"{', '.join(board.datasets)}; {', '.join(victims)}; suite {', '.join(board.stems)}")
    cells = f"{n} cell{'' if n == 1 else 's'} of each defense ({made_of})"
    weight = ", each data set with the same weight" if several else ""
    failed = "".join(f" {escape(words)}." for words in failures_of(board))
    return f"In %, at alpha {board.rate:g}, over {cells}{weight}. {meanings}.{failed}"


def failures_of(board: Leaderboard) -> list[str]:
    """What has no row because it failed wherever it ran: `mine failed in all 4 cells`."""
    n = len(board.contexts)
    return [f"{name} {lacks(n_failed, n, n)}" for name, n_failed in board.failed.items()]


def lacks(n_failed: int, n_missing: int, n: int) -> str:
    """In how many of n cells a defense failed or was not measured: `failed in 1 and was not measured in 2 of 4 cells`."""
    if n_failed == n:
        return f"failed in {({1: 'the only cell', 2: 'both cells'}).get(n, f'all {n} cells')}"
    parts = {"failed": n_failed, "was not measured": n_missing - n_failed}
    return " and ".join(f"{words} in {count}" for words, count in parts.items() if count) + f" of {n} cell{'s' if n > 1 else ''}"
