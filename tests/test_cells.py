import pytest

from subpop.cells import grid, mean_by_rate, sweep_id, sweeps
from subpop.types import Cell


def test_grid_is_the_product_of_its_lists():
    cells = grid(
        stem="s", tier="embedded", dataset="digits", victim=["a", "b"], partition="feature_match", rate=[0.5, 1], split=[0, 1]
    )
    assert len(cells) == 8
    assert cells[0] == Cell("s", "embedded", "digits", "a", "feature_match", "label_flip", 0.5, setting=(("split", "0"),))
    assert len({cell.id for cell in cells}) == 8


def test_a_sweep_holds_what_differs_in_rate_and_split_alone():
    cells = grid(stem="s", tier="embedded", dataset="digits", victim=["a", "b"], partition="feature_match", rate=[2, 0.5, 1])
    groups = sweeps(cells)
    assert [[cell.rate for cell in group] for group in groups] == [[0.5, 1, 2], [0.5, 1, 2]]
    assert sweep_id(groups[0]) == "embedded-digits-a-feature-label_flip-none"
    split = grid(stem="s", tier="embedded", dataset="digits", victim="a", partition="feature_match", rate=[1, 2], split=[0, 1])
    assert [len(group) for group in sweeps(split)] == [4]


def test_a_claim_is_made_of_the_mean_over_splits():
    sweep = grid(stem="s", tier="t", dataset="d", victim="v", partition="p", rate=[2, 1], split=[0, 1])
    value = {("0", 1.0): 0.1, ("1", 1.0): 0.3, ("0", 2.0): 0.5, ("1", 2.0): 0.6}
    means = mean_by_rate(sweeps(sweep)[0], lambda cell: {"m": value[cell.option("split", ""), cell.rate]}, "m")
    assert means == {1.0: pytest.approx(0.2), 2.0: pytest.approx(0.55)}
    assert list(means) == [1.0, 2.0]


def test_settings_are_sorted_and_removable():
    cell = grid(stem="s", tier="t", dataset="d", victim="v", partition="p", rate=1.0, zeta=2, alpha="x")[0]
    assert cell.setting_text == "alpha=x;zeta=2"
    assert cell.with_(zeta=None).setting_text == "alpha=x"
    assert cell.option("zeta", "1") == "2"
    assert cell.option("absent", "1") == "1"


def test_ids_keep_the_partition_word_apart_from_suite_names():
    cell = Cell("s", "embedded", "digits", "mlp", "feature_match", "label_flip", 1.0)
    assert "feature_match" not in cell.id
    with pytest.raises(TypeError):
        cell.with_(1)
