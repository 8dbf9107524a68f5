"""ClusterMatch with label flipping on texts, compared with the 180 trials that the paper's authors released.

A cell attacks clusters of reviews; all poison of a cluster gets the label that the attacker's own model finds least likely there.
Ranked as everywhere: target damage, clean minus poisoned accuracy on the cluster's test reviews. The page compares the
distribution of our damages with that of the released trials, and shows the reviews nearest to the centroids of the worst
clusters.

Source: Jagielski et al., CCS 2021, ClusterMatch on IMDB with BERT: worst-k and collateral damage recomputed from the authors'
released result files, one trial per cluster, 30 of 100 clusters (the 10 least, 10 middle and 10 most confident).

Deviations: clean and poisoned victims are trained in the same way (the released clean model has batches of 16, its victims 8,
which is probably why the released collateral damage of BERT-LL is negative). Line-break tags are removed. Confidence is a
probability, not a raw logit, also for the choice of the label. There is no dropout. Clusters of hidden states count padding as
zeros; those of fine-tuned victims use the pooled features of the attacker's model. The embedded tier has generated reviews and a
tiny random encoder. The laptop tier has another encoder, all-MiniLM-L6-v2: published features under a logistic regression for all
100 clusters, and its last block on a tenth of the reviews for three of them. No published number has that set-up, so they are
shown with the paper tier's cells only.
"""

import pytest

from subpop import grid
from subpop.types.grid import mean_by_rate

STEM = "imdb_cluster_match"
COMMON = {"stem": STEM, "kind": "imdb", "partition": "cluster_match", "label_rule": "common"}
RATES = [0.5, 1.0, 2.0]
ATTACKED_30 = {"n_attacked": 30, "attacked_by": "low_middle_high", "n_seeds": 1}

CELLS = [
    *grid(tier="embedded", dataset="reviews", victim="text_linear", encoder="tiny", rate=[0.0, *RATES], n_seeds=3, **COMMON),
    *grid(
        tier="embedded",
        dataset="reviews",
        victim="tiny_bert_last_layer",
        clusters_on="hidden_states",
        rate=[0.0, 2.0],
        n_attacked=6,
        attacked_by="low_middle_high",
        n_seeds=2,
        **COMMON,
    ),
    *grid(tier="laptop", dataset="imdb_minilm", victim="text_linear", rate=[0.0, *RATES], n_seeds=3, **COMMON),
    *grid(
        tier="laptop",
        dataset="imdb_small",
        victim="minilm_last_layer",
        clusters_on="hidden_states",
        max_length=64,
        rate=2.0,
        n_attacked=3,
        attacked_by="low_middle_high",
        n_seeds=1,
        **COMMON,
    ),
    *grid(
        tier="paper", dataset="imdb", victim="bert_last_layer", clusters_on="hidden_states", rate=RATES, **ATTACKED_30, **COMMON
    ),
    *grid(
        tier="paper", dataset="imdb", victim="bert_fine_tuned", clusters_on="bert_fine_tuned", rate=RATES, **ATTACKED_30, **COMMON
    ),
]


def test_cell(cell, measure):
    measure(cell)


@pytest.mark.cells(victim="text_linear")
def test_damage_grows_with_alpha(sweep, result_of):
    damages = mean_by_rate(sweep, result_of, "target_damage_worst_5")
    assert damages[2.0] > damages[1.0] > damages[0.5] > damages[0.0], damages


@pytest.mark.cells(rate=0.0)
def test_alpha_zero_is_the_clean_victim(sweep, result_of):
    """Bit-identical: no prediction differs."""
    for cell in sweep:
        assert result_of(cell)["target_damage_worst_1_all"] == 0
        assert result_of(cell)["collateral_damage_max"] == 0
