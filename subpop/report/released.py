"""Comparison of a run on IMDB with the released trials: worst-k, mean and collateral damage by alpha, and distributions."""

from __future__ import annotations

from collections.abc import Sequence

from subpop.report.figures.released import Sample, comparable, samples_of
from subpop.report.figures.setups import NO_VALUE, is_finite, percent
from subpop.report.markdown import escape, table
from subpop.results.released import two_samples
from subpop.types import CellReport

SUMMED_UP = {
    "worst_1": "worst-1",
    "worst_5": "worst-5",
    "worst_10": "worst-10",
    "mean": "mean",
    "median": "median",
    "share_unhurt": "undamaged",
    "collateral_max": "collateral, max",
    "collateral_mean": "collateral, mean",
}
SMALLEST_P = 1e-4
NOT_GATED = (
    "Encoders, clusters and victims differ between this run and the released trials (one training of BERT's last block, LL, or "
    "of all of it, FT, for each of 30 of 100 clusters), so only distributions are compared, for information. All in %. "
    "Undamaged: clusters whose target damage is 0 or less. Worst-k grows with the number of clusters. The clean model of the "
    "released LL was probably trained with other batches than its victims: its damages may be .4 % too low."
)
TESTED = (
    "Whether target damages of this run and released ones could be one sample: p of the Kolmogorov-Smirnov and the Mann-Whitney "
    "test, not corrected for their number, and the difference of means in % (this run minus released). It has no interval: the "
    "damages of 30 clusters are so skewed that 95 % intervals contain the difference of the populations in 84 to 96 % only."
)


def beside_released_trials(reports: Sequence[CellReport]) -> list[str]:
    """Return blocks of markdown; none if no cell of the suite is comparable with the released trials."""
    chosen = comparable(reports)
    if not chosen:
        return []
    samples = samples_of(chosen)
    summed_up = [_summed_up(rate, sample) for rate, of_rate in samples.items() for sample in of_rate]
    tested = [
        _tested(rate, ours, released)
        for rate, of_rate in samples.items()
        for ours in of_rate
        for released in of_rate
        if ours.ours and not released.ours
    ]
    return [
        "## Comparison with the released trials",
        NOT_GATED,
        table(["victims", "alpha", "clusters", "rows in D", *SUMMED_UP.values()], summed_up),
        TESTED,
        table(["this run", "released", "alpha", "KS p", "Mann-Whitney p", "difference of means"], tested, left=2),
    ]


def _summed_up(rate: float, sample: Sample) -> list[str]:
    found = sample.summed_up
    numbers = [percent(getattr(found, name)) for name in SUMMED_UP]
    return [_name(sample), f"{rate:g}", str(found.n), f"{found.n_train:.0f}", *numbers]


def _tested(rate: float, ours: Sample, released: Sample) -> list[str]:
    found = two_samples(ours.damages, released.damages)
    tests = [p_value(found.ks_p), p_value(found.mann_whitney_p)]
    return [_name(ours), _name(released), f"{rate:g}", *tests, percent(found.difference)]


def _name(sample: Sample) -> str:
    return escape(f"{sample.dataset}, {sample.label}" if sample.ours else sample.label)


def p_value(p: float) -> str:
    """Format a p value with two digits; values below a ten-thousandth as an upper bound."""
    if not is_finite(p):
        return NO_VALUE
    return escape(f"< {SMALLEST_P:g}") if p < SMALLEST_P else f"{p:.2g}"
