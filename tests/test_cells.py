import pytest

from subpop.cells import grid, sweep_id, sweeps
from subpop.types import Cell


def test_grid_is_the_product_of_its_lists():
    cells = grid(
        stem="s", tier="embedded", dataset="digits", victim=["a", "b"], partition="feature_match", rate=[0.5, 1], split=[0, 1]
    )
    assert len(cells) == 8
    assert cells[0] == Cell("s", "embedded", "digits", "a", "feature_match", "label_flip", 0.5, setting=(("split", "0"),))
    assert len({cell.id for cell in cells}) == 8


def test_a_sweep_holds_what_differs_in_rate_alone():
    cells = grid(stem="s", tier="embedded", dataset="digits", victim=["a", "b"], partition="feature_match", rate=[2, 0.5, 1])
    groups = sweeps(cells)
    assert [[cell.rate for cell in group] for group in groups] == [[0.5, 1, 2], [0.5, 1, 2]]
    assert sweep_id(groups[0]) == "embedded-digits-a-feature-label_flip-none"


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
