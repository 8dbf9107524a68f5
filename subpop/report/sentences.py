"""A board in three sentences of plain text: how bad the attack is, what helps against it, and what that costs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import chain
from typing import NamedTuple

from subpop.report.board_table import failures_of, lacks, signed
from subpop.report.figures.setups import aggregates, quantity
from subpop.report.leaderboard import FLAG, NOTHING, Entry, Estimate, Leaderboard, leaderboards
from subpop.results.metric_registry import metric_of
from subpop.results.paired import BETTER, EQUIVALENT, MARGIN, UNDECIDED, WORSE
from subpop.types import Cell, CellReport

MOST_NAMED, MOST_CELLS = 4, 10
MAIN = ("target_damage_mean", "target_damage_worst_5", "collateral_damage_max")
LEVEL_WORDS = {
    "count": "the number of poison rows",
    "holdout": "clean rows",
    "group labels": "the groups of the rows",
    "the poison": "to know which rows are poison",
}
VERDICT_WORDS = {
    BETTER: "better than none",
    EQUIVALENT: f"equivalent to none within {100 * MARGIN:g} points",
    UNDECIDED: "undecided",
    WORSE: "worse than none",
}


class Answers(NamedTuple):
    """The three sentences about a board."""

    how_bad: str
    what_helps: str
    what_it_costs: str


def answers(board: Leaderboard, begin: str = "") -> Answers:
    """Return the three sentences about a board, as plain text. begin: what each begins with."""
    return Answers(*(begin + sentence for sentence in (_how_bad(board), _what_helps(board), _what_it_costs(board))))


def in_words(reports: Sequence[CellReport]) -> list[str]:
    """What was measured, as plain text: what boards say, or the damage of each of the first MOST_CELLS cells if there is none."""
    boards = leaderboards(reports)
    if boards:
        return [sentence for board in boards for sentence in answers(board)[:2]]
    measured = [report for report in reports if report.result]
    left = len(measured) - MOST_CELLS
    named = zip(_names([report.cell for report in measured]), measured[:MOST_CELLS], strict=False)
    return [*(_numbers(*each) for each in named), *([f"and {left:,} more cells"] if left > 0 else [])]


def about_own(reports: Sequence[CellReport], defenses: Collection[str], attacks: Collection[str]) -> list[str]:
    """What each board says of these defenses (verdict, damage, costs), and the main numbers of the cells of these attacks."""
    scored = []
    for board in leaderboards(reports):
        scored += [_score(board, entry) for entry in board.entries if entry.defense in defenses]
        failed = zip(board.failed, failures_of(board), strict=True)
        scored += [
            f"{words} ({_listed(board.datasets)}; {_listed(board.victims)})." for name, words in failed if name in defenses
        ]
    attacked = [report for report in reports if report.cell.attack in attacks]
    return [*scored, *(in_words(attacked) if attacked else [])]


def _score(board: Leaderboard, entry: Entry) -> str:
    """A defense on a board: `mine: better than none (...); rank 2 of 3. At alpha 1, ..., an attacked subpopulation loses ...`."""
    n_ranked = sum(each.rank is not None for each in board.entries)
    rank = f"rank {entry.rank.value} of {n_ranked}" if entry.rank and n_ranked > 1 else ""
    missing = f"{_lacks(board, entry)}, so that this is about the others and has no rank" if entry.n_missing else ""
    undefended, costs = board.undefended_damage(entry), _costs(entry)
    digits, where = _digits(entry.damage.value, undefended), _where(board, sorted(entry.by_dataset))
    sentences = [
        f"{entry.defense}: {'; '.join(filter(None, [_verdict(entry), missing, rank]))}",
        f"At alpha {board.rate:g}, {where}, an attacked subpopulation loses {_estimate(entry.damage, digits)} of "
        f"accuracy, and {points(undefended, digits)} without a defense",
        f"It {_listed(costs)}" if costs else "",
        f"Integrity: {entry.integrity}" if entry.integrity else "",
    ]
    return " ".join(f"{sentence}." for sentence in sentences if sentence)


def _verdict(entry: Entry) -> str:
    """`better than none (damage on hurt subpopulations -13.0 points, from -17.0 to -9.0)`."""
    if entry.judged is None:
        return "without a verdict"
    found, words = entry.judged.difference, VERDICT_WORDS[entry.judged.verdict]
    if found.reason:
        return f"{words} ({found.reason})"
    low, high = (signed(found.value + side * found.half_width) for side in (-1, 1))
    return f"{words} (damage on hurt subpopulations {signed(found.value)} points, from {low} to {high})"


def _lacks(board: Leaderboard, entry: Entry) -> str:
    return lacks(entry.n_failed, entry.n_missing, len(board.contexts))


def _named(board: Leaderboard, entry: Entry) -> str:
    """The name of a defense, and which cells it lacks."""
    return f"{entry.defense} ({_lacks(board, entry)})" if entry.n_missing else entry.defense


def _names(cells: Sequence[Cell]) -> list[str]:
    """A name for each cell, such as `digits, logistic_regression, my_attack, alpha 1, split 0`, or its id if two would be alike.

    A setting is left out if all cells have the same one, and so are an attack and a defense that go without saying.
    """
    settings = [dict(cell.setting) for cell in cells]
    varying = [name for name in sorted({*chain(*settings)}) if len({own.get(name) for own in settings}) > 1]
    partitions = {cell.partition for cell in cells}
    names = []
    for cell, own in zip(cells, settings, strict=True):
        parts = [cell.dataset, cell.victim, cell.partition if len(partitions) > 1 else ""]
        parts += ["" if cell.attack == "label_flip" else cell.attack, "" if cell.defense == "none" else cell.defense]
        parts += [f"alpha {cell.rate:g}", *(f"{name} {own[name]}" for name in varying if name in own)]
        names.append(", ".join(filter(None, parts)))
    return names if len(set(names)) == len(names) else [cell.id for cell in cells]


def _numbers(name: str, report: CellReport) -> str:
    """A cell and its main numbers: `...: mean target damage 35.0 %, ...`."""
    numbers = {number.metric: number.value for number in aggregates(report)}
    shown = [each for each in MAIN if each in numbers] or [*numbers][: len(MAIN)]
    return f"{name}: " + ", ".join(f"{metric_of(each).title} {quantity(each, numbers[each])}" for each in shown)


def best_of(board: Leaderboard) -> Entry:
    """The first of the defenses with the best verdict, of those without a cheat and with all cells if there is such a defense."""

    def order(entry: Entry) -> tuple[bool, bool, bool]:
        return is_flagged(entry), entry.n_missing > 0, not (entry.judged and entry.judged.verdict == BETTER)

    return min(board.entries, key=order)


def is_flagged(entry: Entry) -> bool:
    """Whether the probes of a plug-in found a way to win without defending."""
    return entry.integrity.startswith(FLAG)


def _how_bad(board: Leaderboard) -> str:
    none = board.undefended
    attack = _listed(sorted({context.attack for context in board.contexts}))
    rows = f"{board.rate:g} poison row{'' if board.rate == 1 else 's'} for each row of a subpopulation"
    worst = f", and {points(none.worst)} from the worst" if none.worst is not None else ""
    others = f"; all other rows lose at most {points(none.collateral)}" if none.collateral is not None else ""
    return (
        f"At alpha {board.rate:g} ({rows}), {attack} takes {_estimate(none.damage)} of accuracy from an undefended "
        f"subpopulation, {_where(board)}{worst}{others}."
    )


def _where(board: Leaderboard, datasets: Sequence[str] = ()) -> str:
    """`averaged over digits and mixture with the victim logistic_regression`. datasets: some of the board's; or else all."""
    named = datasets or board.datasets
    where = f"averaged over {_listed(named)}" if len(named) > 1 else f"on {named[0]}"
    return f"{where} with the victim{'' if len(board.victims) == 1 else 's'} {_listed(board.victims)}"


def _what_helps(board: Leaderboard) -> str:
    if not board.entries:
        return f"No defense could be measured: {_listed(failures_of(board))}."
    best, n = best_of(board), len(board.entries) + len(board.failed)
    honest = [entry for entry in board.entries if not is_flagged(entry)]
    flagged = [entry.defense for entry in board.entries if is_flagged(entry)]
    by_verdict = {verdict: [e for e in honest if e.judged and e.judged.verdict == verdict] for verdict in VERDICT_WORDS}
    better = by_verdict.pop(BETTER)
    found = [(len(names), VERDICT_WORDS[verdict]) for verdict, names in by_verdict.items() if names]
    found += [(len(flagged), f"caught cheating ({_listed(flagged)})")] if flagged else []
    found += [(len(board.failed), f"failed ({_listed(board.failed)})")] if board.failed else []
    others = f" ({', '.join(words if n == 1 else f'{count} {words}' for count, words in found)})" if found else ""
    left = _left(best.damage, board.undefended_damage(best))
    if not better:
        if n == 1:
            return f"The one defense tested, {_named(board, best)}, is not better than no defense{others}: it {left}."
        return f"None of {n} defenses is better than no defense{others}; the first on the board, {_named(board, best)}, {left}."
    difference = best.judged.difference if best.judged else None
    pairs = f" ({points(-difference.value)} ± {_number(difference.half_width)} less on hurt subpopulations)" if difference else ""
    rest = [_named(board, entry) for entry in better if entry is not best]
    follow = f"; {_listed(rest)} help{'s' if len(rest) == 1 else ''} too" if rest else ""
    helped = f"{len(better)} of {n} defenses {'is' if len(better) == 1 else 'are'} better than none{others}"
    return f"{helped}: {_named(board, best)} {left}{pairs}{follow}."


def _left(damage: Estimate, undefended: float) -> str:
    """`leaves 20 points (15 to 25) of the 33 points`."""
    digits = _digits(damage.value, undefended)
    if _number(damage.value, 1) == _number(undefended, 1):
        rest = ", the same as without a defense"
    else:
        rest = f"{', more than' if damage.value > undefended else ' of'} the {points(undefended, digits)}"
    return f"leaves {_estimate(damage, digits)}{rest}"


def _what_it_costs(board: Leaderboard) -> str:
    if not board.entries:
        return "Nothing was measured."
    best = best_of(board)
    parts = _costs(best)
    clean = [entry.clean_cost for entry in board.entries if entry.clean_cost is not None]
    every = f" All defenses: {_changes(min(clean), max(clean))} of clean accuracy." if len(clean) > 1 else ""
    return f"{best.defense} {_listed(parts)}.{every}" if parts else f"What {best.defense} costs was not measured."


def _changes(least: float, most: float) -> str:
    """The range of what is given up: `0.2 to 3 points`, `from a gain of 0.1 to a loss of 3 points`."""
    if not _number(least).startswith("-"):
        return f"{_number(least)} to {points(most)}"
    ends = [f"a {'gain' if value < 0 else 'loss'} of {_number(abs(value))}" for value in (least, most)]
    return f"from {ends[0]} to {ends[1]} points"


def _costs(entry: Entry) -> list[str]:
    """What a defense costs, in clauses without a subject: `gives up 3 points of clean accuracy`."""
    parts = [f"needs {LEVEL_WORDS[entry.knowledge]}"] if entry.knowledge != NOTHING else []
    if entry.clean_cost is not None:
        changes = "gains" if _number(entry.clean_cost).startswith("-") else "gives up"
        parts.append(f"{changes} {points(abs(entry.clean_cost))} of clean accuracy")
    if entry.payer:
        parts.append(
            f"takes {points(entry.payer.cost)} from {entry.payer.subpopulation} of {entry.payer.dataset} without any attack"
        )
    if entry.fits is not None:
        count = f"{entry.fits:.3g} victim{'' if entry.fits == 1 else 's'} per trial" if entry.fits else "with its own loop"
        parts.append(f"trains {count}")
    if entry.seconds is not None:
        times = f"{entry.seconds:.0f}" if entry.seconds >= 10 else f"{entry.seconds:.2g}"
        parts.append(f"takes {times} times as long as plain training")
    return parts


def points(value: float, digits: int = 0) -> str:
    """A fraction in percentage points: `33 points`, `1 point`, `0.4 points`."""
    text = _number(value, digits)
    return f"{text} point{'' if text in ('1', '-1') else 's'}"


def _number(value: float, digits: int = 0) -> str:
    """In whole points, or with a decimal below one, or with as many digits as are needed beside another number."""
    text = f"{100 * value:.{digits if abs(value) >= 0.0095 else 1}f}"
    return "0" if float(text) == 0 else text


def _digits(one: float, other: float) -> int:
    """The decimals that tell two numbers apart: none, or one."""
    return int(_number(one) == _number(other) and _number(one, 1) != _number(other, 1))


def _estimate(found: Estimate, digits: int = 0) -> str:
    """`33 points (28 to 37)`."""
    text = points(found.value, digits)
    if found.low is None or found.high is None:
        return text
    return f"{text} ({_number(found.low, digits)} to {_number(found.high, digits)})"


def _listed(names: Iterable[str]) -> str:
    """`a, b and c`; of many, the first and how many others there are."""
    found = list(names)
    if len(found) > MOST_NAMED + 1:
        found = [*found[:MOST_NAMED], f"{len(found) - MOST_NAMED} others"]
    *others, last = found
    return f"{', '.join(others)} and {last}" if others else last
