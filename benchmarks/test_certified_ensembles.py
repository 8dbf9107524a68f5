"""Certified ensembles: the damage that DPA certifies for each subpopulation, beside the damage that is measured.

A cell attacks six clusters with distinct rows. `collective_damage_mean` is the mean over clusters of the largest damage that
any attack with as many inserted rows could do: the accuracy of the clean undefended victim less the share of a cluster's test
rows that remain right whichever members those insertions change. The base is DPA on clean data, all poison rows count as
insertions, and rows that are wrong on clean data count as wrong. `pointwise_damage_mean` adds up rows that may need different
attacks. `certified_accuracy_mean:insertions` and `:label_flips` are as in Table 13: the base is the attacked model, whose rows
count if they are right and no deletion of the poison, or change of its labels, can turn them. A `collective_share` of 0 means
that the attacks have so many rows that the certificate says nothing.

Source: Levine and Feizi 2021 (DPA); Chen et al. 2022 (the certificate for many test rows at once).

Deviations: eleven members on 600 digits, so that at most five insertions can be certified; at alpha 1 an attack has 20 to 40.
"""

import pytest

from subpop import grid

STEM = "certified_ensembles"

CELLS = grid(
    stem=STEM,
    tier="embedded",
    kind="ensembles",
    dataset="digits",
    victim="logistic_regression",
    partition="cluster_match",
    sampling="distinct",
    rate=[0.05, 0.1, 0.2, 1.0],
    defense=["none", "dpa"],
    n_attacked=6,
    n_seeds=2,
)


def test_cell(cell, measure):
    measure(cell)


@pytest.mark.cells(defense="dpa")
def test_no_subpopulation_loses_more_than_is_certified(sweep, result_of):
    for cell in sweep:
        result = result_of(cell)
        assert len(result.table) == 6
        for row in result.table:
            assert row["collective_damage"] >= row["target_damage"] - 1e-12, f"{cell.id}: {row['subpopulation']}"


@pytest.mark.cells(defense="dpa")
def test_the_collective_certificate_is_the_stronger_one(sweep, result_of):
    results = [result_of(cell) for cell in sweep]
    assert all(result["collective_damage_mean"] <= result["pointwise_damage_mean"] for result in results)
    assert any(result["collective_damage_mean"] < result["pointwise_damage_mean"] for result in results)
    assert all(result["collective_solved"] == 1 for result in results)


@pytest.mark.cells(defense="dpa")
def test_certificates_say_something_of_few_rows_and_nothing_at_alpha_one(sweep, result_of):
    shares = [result_of(cell)["collective_share"] for cell in sweep]
    assert shares[0] == 1
    assert shares[-1] == 0
