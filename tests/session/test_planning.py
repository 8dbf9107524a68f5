"""`subpop plan`: formulas against torch's own counts, sums by hand, and the whole command."""

from __future__ import annotations

import json
import time

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from subpop.runtime.estimate import Rates
from subpop.session import cli, planning
from subpop.session.planning import (
    BERT_BLOCKS,
    BERT_TOKENS,
    BERT_WEIGHTS,
    BERT_WIDTH,
    HERE,
    VGG,
    Line,
    bytes_of_fit,
    expected_fits,
    flops_of_fit,
    forward_of_bert,
    forward_of_vgg,
    lines_of,
    n_rows_of,
    rate_here,
)
from subpop.types import Cell

VGG_CELL = Cell.of("s", "paper", "utkface", "vgg16_fine_tuned", "cluster_match", rate=2.0, n_seeds=3, n_attacked=4)


def counted(work):
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


@pytest.mark.parametrize("picture", [(3, 100, 100), (3, 32, 32), (3, 224, 224)])
def test_operations_of_vgg16_are_those_that_torch_counts(picture):
    from subpop._torchvision import import_torchvision

    with torch.device("meta"):
        layers = import_torchvision().models.vgg16(weights=None).features
        x = torch.empty(2, *picture)
    assert counted(lambda: layers(x)) == 2 * forward_of_vgg(picture)
    assert sum(weight.numel() for weight in layers.parameters()) * 16 == bytes_of_fit("vgg16_fine_tuned", "utkface", 0)
    assert len([width for width in VGG if width]) == 13


def test_operations_of_bert_are_those_that_torch_counts():
    from transformers import BertConfig
    from transformers.models.bert.modeling_bert import BertModel

    with torch.device("meta"):
        bert = BertModel(BertConfig())
        hidden = torch.empty(2, BERT_TOKENS, BERT_WIDTH)
    found = counted(lambda: [block(hidden) for block in bert.encoder.layer])
    assert found == pytest.approx(2 * forward_of_bert(BERT_TOKENS), rel=1e-12)
    assert len(bert.encoder.layer) == BERT_BLOCKS
    assert sum(weight.numel() for weight in bert.parameters()) == BERT_WEIGHTS


def test_a_training_step_costs_three_forward_passes():
    """Of which the gradient of the first layer's input is not needed: a little less."""
    with torch.device("meta"):
        layers = torch.nn.Sequential(*(torch.nn.Conv2d(16, 16, 3, padding=1) for _ in range(10)))
        x = torch.empty(1, 16, 8, 8)
    forward = counted(lambda: layers(x))
    assert counted(lambda: layers(x).sum().backward()) == pytest.approx(3 * forward, rel=1 / 20)


def seconds_of(work):
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def test_operations_per_second_of_a_training_step_agree_with_the_measured_rate():
    """A formula that were wrong by a factor of 10, or a rate in other units, would show: both are measured alternately."""
    matrix = torch.ones(1024, 1024)
    layers = torch.nn.Sequential(*(torch.nn.Conv2d(64, 64, 3, padding=1) for _ in range(4)))
    x = torch.ones(4, 64, 32, 32)
    work = (lambda: matrix @ matrix, lambda: layers(x).sum().backward())
    rounds = [(*map(seconds_of, work), rate_here()) for _ in range(5)]
    products, steps, rates = zip(*rounds, strict=True)
    assert 2 * 1024**3 / min(products) < 2 * max(rates)
    operations = 3 * 4 * len(x) * 2 * 9 * 64 * 64 * 32 * 32
    assert max(rates) / 10 < operations / min(steps) < 2 * max(rates)


def test_fits_and_hours_by_hand():
    assert expected_fits(VGG_CELL) == 4 * 3
    assert expected_fits(VGG_CELL.with_(defense="trim")) == (4 * 3 + 3) * 5
    assert expected_fits(VGG_CELL.with_(n_attacked=None)) == 10 * 3
    assert n_rows_of(VGG_CELL) == 7000
    assert n_rows_of(VGG_CELL.with_(protocol="reserve")) == 4666
    unknown = Cell.of("s", "paper", "adult", "logistic_regression", "feature_match", rate=1.0, n_seeds=1)
    first, second = lines_of([VGG_CELL, VGG_CELL.with_(defense="random_filter"), unknown], {"a": 1e12, "b": 2e12})
    assert (first.victim, first.cells, first.fits) == ("vgg16_fine_tuned", 2, 12 + 15)
    assert (
        first.flops
        == 27 * 3 * 12 * 7000 * forward_of_vgg((3, 100, 100))
        == 27 * flops_of_fit("vgg16_fine_tuned", "utkface", 7000)
    )
    assert first.hours == {"a": first.flops / 1e12 / 3600, "b": first.flops / 2e12 / 3600}
    assert second == Line("logistic_regression", "adult", 1, 10, None, None, {"a": None, "b": None})


def test_what_is_not_known_in_advance_is_no_zero():
    """Cells that list no trials, such as those of training-set attacks, were planned with no fits and 0.00 hours."""
    cell = Cell.of("s", "paper", "dogfish", "inception_v3_last_layer", "", rate=0.0, kind="target_sets", n_seeds=1)
    rates = Rates()
    rates.note(VGG_CELL, trials=5, seconds=35.0, fits=5)
    [line] = lines_of([cell], {HERE: 1e12}, rates)
    assert line == Line("inception_v3_last_layer", "dogfish", 1, None, None, None, {HERE: None})


def test_a_frozen_network_sees_the_rows_of_three_parts_once():
    cell = VGG_CELL.with_(victim="vgg16_last_layer")
    [line] = lines_of([cell, cell.with_(rate=1.0)], {HERE: 1e12})
    last_layers = 2 * 12 * flops_of_fit("vgg16_last_layer", "utkface", 7000)
    assert line.flops == last_layers + 3 * 7000 * forward_of_vgg((3, 100, 100))


def test_recorded_seconds_are_the_hours_of_this_machine():
    """By hand: 4 subpopulations and 3 seeds at 7 s a trial; the rates of other devices stay what they were."""
    rates = Rates()
    rates.note(VGG_CELL.with_(rate=1.0), trials=5, seconds=35.0, fits=5)
    other = Cell.of("s", "laptop", "adult", "logistic_regression", "feature_match", rate=1.0, n_seeds=2, n_attacked=3)
    told = {HERE: 1e12, "A100": 1e14}
    first, second = lines_of([VGG_CELL, other], told, rates)
    assert first.hours == {HERE: pytest.approx(12 * 7 / 3600), "A100": first.flops / 1e14 / 3600}
    assert second.hours == {HERE: None, "A100": None}
    rates.note(other.with_(rate=2.0), trials=1, seconds=0.5, fits=1)
    assert lines_of([VGG_CELL, other], told, rates)[1].hours == {HERE: pytest.approx(6 * 0.5 / 3600), "A100": None}


def test_the_table_cuts_nothing_off_at_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    cells = [VGG_CELL, Cell.of("s", "laptop", "adult", "logistic_regression", "feature_match", rate=1.0, n_seeds=2, n_attacked=3)]
    planning.show(lines_of(cells, {HERE: 1e9, "A100": 1e14, "H100": 1e15}), {HERE: 1e9, "A100": 1e14, "H100": 1e15})
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert "\u2026" not in shown
    assert f"{12 * flops_of_fit('vgg16_fine_tuned', 'utkface', 7000):.1e}".replace("e+", "e") in shown
    assert next(line for line in shown.splitlines() if "logistic_regression" in line).split()[-5:] == ["-"] * 5
    assert "\n  adult" in shown


def test_the_command(capsys, monkeypatch):
    monkeypatch.setattr(planning, "rate_here", lambda: 1e11)
    monkeypatch.setattr(planning, "cells_of_tier", lambda tier, suites: [VGG_CELL])
    assert cli.main(["plan", "--tier", "paper", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    (line,) = told["lines"]
    assert line["hours"]["this machine"] == pytest.approx(line["flops"] / 1e11 / 3600)
    assert line["hours"]["A100"] == pytest.approx(line["flops"] / (312e12 * 0.4) / 3600)
    monkeypatch.setenv("COLUMNS", "160")
    assert cli.main(["plan"]) == 0
    shown = capsys.readouterr().out
    assert "vgg16_fine_tuned" in shown
    assert "nothing was measured on one" in " ".join(shown.split())
    assert cli.main(["plan", "--tier", "huge"]) == 2
    assert cli.main(["plan", "--store", "nowhere.sqlite"]) == 2
    assert "nowhere.sqlite does not exist" in capsys.readouterr().err
