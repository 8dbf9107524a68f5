"""Breast cancer: how vulnerable are its four sizes of tumours?"""

from subpop import grid

CELLS = grid(
    stem="mine",
    tier="embedded",
    dataset="embeddings:mine.npz",
    partition="feature_match",
    victim="logistic_regression",
    rate=[0.5, 1.0],
)


def test_cell(cell, measure):
    measure(cell)
