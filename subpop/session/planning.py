"""`subpop plan`: cells, fits, floating-point operations, memory and hours of a tier, by formulas, before any data is read.

Operations are those of the matrix products and convolutions of training; tests compare them with the counts of torch. Hours are
operations divided by a rate. The rate of this machine is that of a matrix product or a convolution, whichever is faster, measured
when the command runs: a network reaches a part of it, so that these are about the least hours. Where a store holds trials of the
same victim on the same data, its recorded seconds are the hours of this machine instead. Rates of GPUs are those of their data
sheets, times a share that is assumed: nothing was measured on a GPU.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from math import prod
from pathlib import Path

from subpop.defenses import RETRAIN
from subpop.features.networks.frozen import REPRESENTATIONS, is_frozen
from subpop.runtime.estimate import FITS, SUBPOPULATIONS, Rates
from subpop.types import BadInput, Cell
from subpop.types.kinds import kind_of

SHEETS = {"A100": 312e12, "H100": 989e12}
"""Operations per second of data sheets, in bfloat16 without sparsity."""
HERE = "this machine"
SHARE = 0.4
"""The share of its data sheet's rate that a GPU is assumed to reach in training."""
VGG = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512)
"""Output channels of VGG-16's convolutions; 0 for a pooling that halves the sides."""
BERT_WIDTH, BERT_BLOCKS, BERT_TOKENS, BERT_EPOCHS, VGG_EPOCHS = 768, 12, 256, 4, 12
BERT_WEIGHTS = 109_482_240
ROWS = {"utkface": 7_000, "imdb": 12_500, "cifar10": 25_000, "dogfish": 1_800}
"""Rows of D in the data sets of the paper tier; a third less with `protocol=reserve`."""
PICTURES = {"utkface": (3, 100, 100), "cifar10": (3, 32, 32)}
PARTS = 3
"""D, D_aux and the test rows are about equally large; a frozen network sees each row once."""
PRODUCTS = 60
"""Products with the rows of D in a fit of a linear victim, an upper estimate."""


@dataclass(frozen=True)
class Line:
    """What the cells of one victim on one data set need."""

    victim: str
    dataset: str
    cells: int
    fits: int | None
    """Expected number of trained models; None if that is not known in advance."""
    flops: float | None
    """Floating-point operations of all fits; None for victims without a formula."""
    bytes: float | None
    """Memory of a fit: the rows of D, and the weights with gradients and two moments; None without a formula."""
    hours: dict[str, float | None]
    """Hours by device."""


def forward_of_vgg(picture: tuple[int, int, int]) -> float:
    """Operations of one picture's way through VGG-16's convolutions.

    Examples
    --------
    >>> round(forward_of_vgg((3, 224, 224)) / 1e9, 1)  # twice the published 15.3 billion multiplications
    30.7
    """
    channels, height, width = picture
    operations = 0.0
    for outputs in VGG:
        if outputs:
            operations += 2 * 9 * channels * outputs * height * width
            channels = outputs
        else:
            height, width = height // 2, width // 2
    return operations


def forward_of_bert(tokens: int, blocks: int = BERT_BLOCKS) -> float:
    """Operations of one row through blocks of BERT: six products of weights for each token, and those of the attention."""
    return blocks * tokens * (2 * 12 * BERT_WIDTH**2 + 4 * tokens * BERT_WIDTH)


def flops_of_fit(victim: str, dataset: str, n_rows: int) -> float | None:
    """Operations of training one victim; None if there is no formula. A backward pass costs two forward passes."""
    if victim.startswith("vgg16_fine_tuned"):
        return 3 * VGG_EPOCHS * n_rows * forward_of_vgg(PICTURES[dataset])
    if victim == "bert_fine_tuned":
        return 3 * BERT_EPOCHS * n_rows * forward_of_bert(BERT_TOKENS)
    if victim == "bert_last_layer":  # keys and values of all tokens; everything else for [CLS] alone
        each = 2 * 2 * BERT_TOKENS * BERT_WIDTH**2 + 2 * 10 * BERT_WIDTH**2 + 4 * BERT_TOKENS * BERT_WIDTH
        return float(3 * BERT_EPOCHS * n_rows * each)
    representation = is_frozen(victim)
    return None if representation is None else 4.0 * PRODUCTS * n_rows * REPRESENTATIONS[representation].n_features


def bytes_of_fit(victim: str, dataset: str, n_rows: int) -> float | None:
    """Memory of one fit without activations."""
    if victim.startswith("vgg16_fine_tuned"):
        weights = sum(9 * a * b + b for a, b in zip((3, *(w for w in VGG if w)), [w for w in VGG if w], strict=False))
        return n_rows * prod(PICTURES[dataset]) + 16.0 * weights
    if victim == "bert_fine_tuned":
        return 8.0 * n_rows * BERT_TOKENS + 16.0 * BERT_WEIGHTS
    if victim == "bert_last_layer":
        return 2.0 * n_rows * BERT_TOKENS * BERT_WIDTH + 16.0 * 12 * BERT_WIDTH**2
    representation = is_frozen(victim)
    return None if representation is None else 4.0 * n_rows * REPRESENTATIONS[representation].n_features


def n_rows_of(cell: Cell) -> int:
    """Rows of D, by the table; 0 for other data sets."""
    whole = ROWS.get(cell.dataset, 0)
    return whole * 2 // 3 if cell.data.protocol == "reserve" else whole


def expected_trials(cell: Cell) -> int:
    """Trials of a cell: one for each subpopulation and seed, and for defenses one for each seed without an attack."""
    if not kind_of(cell).trains_trials:
        return 0
    attacked = int(cell.option("n_attacked") or SUBPOPULATIONS)
    return attacked * cell.n_seeds + (0 if cell.defense in ("none", RETRAIN) else cell.n_seeds)


def expected_fits(cell: Cell) -> int:
    """Models that a cell trains, without those that it shares with others."""
    return expected_trials(cell) * FITS.get(cell.defense.partition(":")[0], 1)


def lines_of(cells: Iterable[Cell], rates: dict[str, float], recorded: Rates | None = None) -> list[Line]:
    """The needs of cells by victim and data set, the longest first.

    Parameters
    ----------
    cells
        The cells.
    rates
        Operations per second by device.
    recorded
        Seconds of trials on this machine, which take the place of operations divided by a rate.
    """
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.victim, cell.dataset), []).append(cell)
    lines = []
    for (victim, dataset), own in groups.items():
        training = [cell for cell in own if kind_of(cell).trains_trials]
        each = [(expected_fits(cell), n_rows_of(cell)) for cell in training]
        known = flops_of_fit(victim, dataset, 1) if dataset in ROWS and training else None
        flops = None if known is None else sum(fits * (flops_of_fit(victim, dataset, n) or 0.0) for fits, n in each)
        if flops is not None and is_frozen(victim) == "vgg16":
            flops += PARTS * ROWS[dataset] * forward_of_vgg(PICTURES[dataset])
        memory = None if known is None else bytes_of_fit(victim, dataset, max(n for _, n in each))
        hours = {name: None if flops is None else flops / rate / 3600 for name, rate in rates.items()}
        if recorded is not None and training and all(recorded.knows(cell) for cell in training):
            hours[HERE] = sum(expected_trials(cell) * recorded.seconds(cell, victim, 0) for cell in training) / 3600
        lines.append(Line(victim, dataset, len(own), sum(fits for fits, _ in each) if training else None, flops, memory, hours))
    return sorted(lines, key=lambda line: (-(line.flops or 0.0), -(line.hours.get(HERE) or 0.0), line.victim, line.dataset))


def rate_here(size: int = 1024) -> float:
    """Operations per second of this machine in torch: the faster of a matrix product and a convolution, each the best of five."""
    import torch

    matrix, pictures, kernels = torch.ones(size, size), torch.ones(16, 64, 32, 32), torch.ones(64, 64, 3, 3)
    product = 2 * size**3 / _best(lambda: matrix @ matrix)
    convolution = 2 * 16 * 9 * 64 * 64 * 32 * 32 / _best(lambda: torch.conv2d(pictures, kernels, padding=1))
    return max(product, convolution)


def _best(work: Callable[[], object]) -> float:
    """The least seconds of five calls."""
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def rates() -> dict[str, float]:
    """Operations per second by device."""
    return {HERE: rate_here(), **{name: rate * SHARE for name, rate in SHEETS.items()}}


def cells_of_tier(tier: str, suites: Path) -> list[Cell]:
    """The cells of a tier, as pytest collects them."""
    import pytest

    from subpop.session.collecting import measured_cells

    found: list[Cell] = []

    class Collector:
        def pytest_collection_finish(self, session: pytest.Session) -> None:
            found.extend(measured_cells(session.items))

    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        first = ["-p", "xdist"] if find_spec("xdist") else []  # it owns -n, and must add it before our plug-in checks for it
        own = [*first, "-p", "subpop.pytest_plugin", "-p", "no:cacheprovider", "--collect-only", "-q", "--tier", tier]
        pytest.main([str(suites), "--rootdir", str(Path.cwd()), *own], plugins=[Collector()])
    if not found:
        raise BadInput(f"no cell of the tier {tier} was found in {suites}: {said.getvalue().strip()[-400:]}")
    return found


def as_json(lines: Iterable[Line], rates: dict[str, float]) -> dict[str, object]:
    """The plan as plain data."""
    return {"rates": rates, "share_of_data_sheet": SHARE, "lines": [asdict(line) for line in lines]}


def show(lines: list[Line], rates: dict[str, float]) -> None:
    """Print the plan as a table that fits 80 columns."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, show_footer=True)
    table.add_column("victim, data", footer="all", overflow="fold")
    fits = sum(line.fits or 0 for line in lines)
    hours = [_hours(_sum([line.hours[name] for line in lines])) for name in rates]
    totals = (f"{sum(line.cells for line in lines):,}", f"{fits:,}", _power(_sum([line.flops for line in lines])), "", *hours)
    names = ("hours,\nhere" if name == HERE else f"hours,\n{name}" for name in rates)
    for name, total in zip(("cells", "fits", "FLOP", "GB", *names), totals, strict=True):
        table.add_column(name, footer=total, justify="right", no_wrap=True)
    for line in lines:
        numbers = [f"{line.cells:,}", "-" if line.fits is None else f"{line.fits:,}", _power(line.flops), _gigabytes(line.bytes)]
        table.add_row(f"{line.victim}\n  {line.dataset}", *numbers, *(_hours(line.hours[name]) for name in rates))
    console = Console()
    console.print(table)
    console.print(_caption(lines, rates), highlight=False)


def _caption(lines: list[Line], rates: dict[str, float]) -> str:
    by_formula = (
        "Hours here: recorded in the store for the same victim and data, or else FLOP at about "
        f"{float(f'{rates[HERE]:.1g}') / 1e9:.0f} GFLOP/s, the faster of a matrix product and a convolution measured now, of "
        f"which networks reach only a part. GPUs: {SHARE:.0%} of the data sheet's bfloat16 rate is assumed; nothing was measured "
        "on one. "
    )
    by_store = "No victim here has a formula: `--store runs/store.sqlite` shows the hours that a store recorded. "
    return (
        "FLOP: floating-point operations. GB: memory of a fit without activations. "
        f"{by_formula if any(value is not None for line in lines for value in line.hours.values()) else by_store}"
        f"Fits: for {SUBPOPULATIONS} subpopulations unless the cell names their number. "
        "A dash means unknown; such values are left out of the last line."
    )


def _sum(values: list[float | None]) -> float | None:
    """The sum of what is known; None if nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _power(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}".replace("e+", "e")


def _gigabytes(value: float | None) -> str:
    return "-" if value is None else f"{value / 1e9:.2f}"


def _hours(value: float | None) -> str:
    return "-" if value is None else f"{value:,.2f}" if value < 100 else f"{value:,.0f}"
