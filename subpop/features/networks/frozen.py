"""Names of frozen features, for last layers and for ClusterMatch; `subpop.features.representations` computes the features."""

from __future__ import annotations

from dataclasses import dataclass

from subpop.features.networks import NETWORKS

LAST_LAYER = "_last_layer"


@dataclass(frozen=True)
class Representation:
    """Where features come from: a network of `NETWORKS`, or a file of published ones below the data root."""

    n_features: int
    network: str = ""
    file: str = ""


REPRESENTATIONS: dict[str, Representation] = {
    **{name: Representation(network.n_features, network=name) for name, network in NETWORKS.items()},
    "utkface_mobilenet_v1": Representation(1024, file="embeddings/utkface_mobilenet_v1.npz"),
}


def is_frozen(victim_name: str) -> str | None:
    """The representation whose last layer a victim trains (`vgg16_last_layer`: `vgg16`), None for any other victim."""
    name = victim_name.removesuffix(LAST_LAYER)
    return name if name != victim_name and name in REPRESENTATIONS else None
