"""`--budget 30m`: what is most worth running first, for as long as there is time.

The order: first claims, because each judges several cells at once, the one next that needs least further time for its cells, and
with it the comparisons of these cells; then the other cells whose numbers have references, the shortest first, so that most of
them are judged per second; last the cells that nothing can be compared with. A test is begun if its expected time, corrected by
how long the finished cells took, fits into what is left of the budget. A test that has begun is finished, unless it waits for
workers when the budget ends, which ends them. The first one always runs.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from subpop.defenses import filter_of
from subpop.report.verdict import n_cells
from subpop.runtime.estimate import Forecast, readable_seconds
from subpop.session.collecting import cells_of, is_of_suite, parameters
from subpop.types import Cell

RULE = "claims first, by the further time of their cells; then cells with references, the shortest first; then the others"


def in_order_of_worth(items: Sequence[Any], seconds: Mapping[Cell, float], has_reference: Callable[[Cell], bool]) -> list[Any]:
    """Tests in the order in which a budget is spent on them; tests of no suite come first, since they take none of it.

    Parameters
    ----------
    items
        The tests of a session.
    seconds
        Expected seconds of cells; cells that cannot run are not in it.
    has_reference
        Whether the numbers of a cell can be compared with anything.
    """
    others = [item for item in items if not is_of_suite(item)]
    own = [item for item in items if is_of_suite(item)]
    measuring = {parameters(item)["cell"]: item for item in own if _measures(item)}
    claims = {item: _needed(item, own) for item in own if item not in set(measuring.values())}
    order: list[Any] = []
    paid: set[Cell] = set()
    while claims:
        nearest = min(claims, key=lambda item: (_cost(claims[item] - paid, seconds), item.path.name, item.name))
        cells = claims.pop(nearest)
        order += [measuring.pop(cell) for cell in sorted(cells) if cell in measuring]
        order.append(nearest)
        paid |= cells
    left = sorted(measuring, key=lambda cell: (not has_reference(cell), _cost(_with_filters([cell]), seconds), cell))
    return [*others, *order, *(measuring[cell] for cell in left)]


def _measures(item: Any) -> bool:
    return "measure" in getattr(item, "fixturenames", ()) and isinstance(parameters(item).get("cell"), Cell)


def _needed(item: Any, own: Iterable[Any]) -> frozenset[Cell]:
    """The cells of a test, with those whose trials they read; of a claim that names none, all of its suite."""
    return _with_filters(cells_of(item) or [cell for each in own if each.path.name == item.path.name for cell in cells_of(each)])


def _with_filters(cells: Iterable[Cell]) -> frozenset[Cell]:
    """Cells, and those of the filters to which controls among them are matched: a control runs the trials of its filter first."""
    return frozenset(each for cell in cells for each in (cell, cell.with_(defense=filter_of(cell.defense))))


def _cost(cells: Iterable[Cell], seconds: Mapping[Cell, float]) -> float:
    return sum(seconds.get(cell, 0.0) for cell in sorted(cells))


class Budget:
    """The time that a session may take, from now on.

    Parameters
    ----------
    text
        As it was given, such as `30m`.
    seconds
        The same in seconds.
    clock
        A clock in seconds.
    """

    def __init__(self, text: str, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.text, self.seconds, self._clock = text, seconds, clock
        self._started = clock()
        self._items: Sequence[Any] = ()
        self._forecast = Forecast()
        self._planned, self._n_begun = 0.0, 0

    def spend_on(self, items: Sequence[Any], forecast: Forecast) -> str:
        """Remember the tests, in the order in which they will run, and what is expected of them; returns what to say of it."""
        self._items, self._forecast, self._planned = items, forecast, self._passed
        left, fitting = self.seconds - self._passed, 0
        for cell in dict.fromkeys(cell for item in items if is_of_suite(item) for cell in cells_of(item)):
            left -= forecast.seconds.get(cell, 0.0)
            fitting += left >= 0
        planned = len(forecast.seconds)
        return f"subpop: --budget {self.text}: about {min(fitting, planned):,} of {n_cells(planned)} fit; {RULE}"

    def allows(self, item: Any, finished: Iterable[Cell]) -> bool:
        """Whether a test may begin. finished: the cells that were measured, or failed."""
        if not is_of_suite(item):
            return True
        needed = _needed(item, self._items) - set(finished)
        room = self.room()
        if self._n_begun and (not room or self._forecast.seconds_of(needed) > room):
            return False
        self._n_begun += 1
        return True

    def room(self) -> float:
        """How many seconds by the forecast fit into what is left; 0 once the budget is over."""
        return max(0.0, self.seconds - self._passed) / self._pace

    @property
    def has_ended_tests(self) -> bool:
        """Whether no test may wait any longer; the first one may."""
        return self._n_begun > 1 and self._passed >= self.seconds

    def description_of(self, left: Iterable[Cell]) -> str:
        """What was left, for the page and the terminal; "" if nothing was."""
        cells = list(left)
        if not cells:
            return ""
        stems = ", ".join(f"{stem} ({count})" for stem, count in sorted(Counter(cell.stem for cell in cells).items()))
        seconds = self._forecast.seconds_of(cells) * self._pace
        return f"--budget {self.text} left {n_cells(len(cells))}, roughly {readable_seconds(seconds)}: {stems}"

    @property
    def _pace(self) -> float:
        return self._forecast.pace(self._passed - self._planned)

    @property
    def _passed(self) -> float:
        return self._clock() - self._started
