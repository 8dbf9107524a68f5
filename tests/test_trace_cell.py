"""The tracer sees a cell under any name, and no change hands the cell on more often than before."""

from __future__ import annotations

from trace_cell import committed, rows, the_cell, trace, traced

from subpop.runtime.seeds import poison_seed, training_seed


def test_a_cell_is_seen_under_any_name() -> None:
    one = the_cell()
    with traced() as tracer:
        training_seed(one, 0)
    assert tracer.traces["specification"].by_function == {("runtime/seeds.py", "training_seed"): 1}
    with traced() as tracer:
        poison_seed(one.with_(rate=2.0), "a", 0)  # a cell that was built from it
    found = tracer.traces["specification"].by_function
    assert found["runtime/seeds.py", "poison_seed"] == found["runtime/seeds.py", "draw_identity"] == 1


def test_moves_are_calls_from_another_file() -> None:
    with traced() as tracer:
        poison_seed(the_cell(), "a", 0)
    assert tracer.traces["specification"].by_function["types/cell.py", "Cell.plain"] == 1
    assert tracer.traces["specification"].moves < tracer.traces["specification"].calls


def test_the_cell_is_handed_on_no_more_often_than_recorded() -> None:
    last = {row[1]: row for row in committed()}  # of each kind, the newest state
    for _, kind, calls, moves, *_ in rows(trace(), "now"):
        assert (int(calls) <= int(last[kind][2]), int(moves) <= int(last[kind][3])) == (True, True), (kind, calls, moves)
