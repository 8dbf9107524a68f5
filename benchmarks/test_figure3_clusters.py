"""Figure 3: example subpopulations of ClusterMatch, as pictures with the composition of their rows.

A cell clusters a data set and shows the six clusters whose composition differs most from that of the data: the pictures of D_aux
nearest to the centroid and, of each annotation, the most common value. Its numbers say how pure clusters are:
`purity_share_<annotation>` is the fraction of the most common value within a cluster, the mean over attacked clusters by rows;
`most_common_share_<annotation>` is that fraction in all of them together, the expected purity of random clusters.

Source: Jagielski et al., CCS 2021, appendix, Figure 3 (UTKFace). The paper's words: not perfectly interpretable, but with
patterns, such as older white men.

Deviations: the published six are examples; ours are chosen by a rule that looks at annotations, never at damage. The laptop tier
clusters MobileNet features. Nothing is trained or attacked, so alpha is 0.
"""

import pytest

from subpop import grid

STEM = "figure3_clusters"
COMMON = {"stem": STEM, "kind": "clusters", "victim": "none", "partition": "cluster_match", "rate": 0.0}

CELLS = [
    *grid(tier="embedded", dataset="digits_images", **COMMON),
    *grid(tier="laptop", dataset="utkface_64", clusters_on="utkface_mobilenet_v1", **COMMON),
    *grid(tier="paper", dataset="utkface", clusters_on="vgg16", **COMMON),
]


def test_cell(cell, measure):
    measure(cell)


@pytest.mark.cells(rate=0.0)
def test_clusters_follow_annotations(sweep, result_of):
    """Of every annotation, clusters are purer than the data."""
    for cell in sweep:
        result = result_of(cell)
        names = [n.metric.removeprefix("purity_share_") for n in result.numbers if n.metric.startswith("purity_share_")]
        assert names
        for name in names:
            assert result[f"purity_share_{name}"] > result[f"most_common_share_{name}"] + 0.02, name
