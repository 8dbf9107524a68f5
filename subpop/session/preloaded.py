"""Imports what training and drawing need, for processes that are then forked; what is not installed is left out."""

import gc
from contextlib import suppress
from importlib import import_module
from pkgutil import walk_packages

import subpop
from subpop.runtime.threads import use_one_core

LIBRARIES = (
    "torch",
    "transformers.models.bert.modeling_bert",
    "numba",
    "sklearn.cluster",
    "sklearn.covariance",
    "sklearn.decomposition",
    "sklearn.linear_model",
    "sklearn.metrics",
    "sklearn.neighbors",
    "sklearn.svm",
    "scipy.optimize",
    "scipy.sparse.linalg",
    "scipy.stats",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
)
ROOMS = ("attacks", "datasets", "defenses", "experiments", "features", "report", "runtime", "victims")
"""Packages of subpop whose modules are all imported."""


def _import_all() -> None:
    use_one_core()  # before numba is imported, which reads the number of threads once

    from subpop._torchvision import import_torchvision

    with suppress(Exception):
        import_torchvision()  # transformers imports it
    for name in LIBRARIES:
        with suppress(Exception):
            import_module(name)
    for room in ROOMS:
        for module in walk_packages([f"{folder}/{room}" for folder in subpop.__path__], f"subpop.{room}."):
            with suppress(Exception):
                import_module(module.name)
    gc.freeze()  # pages with what was imported stay shared


_import_all()
