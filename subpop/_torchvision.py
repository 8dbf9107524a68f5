"""Importing torchvision with a CPU-only torch.

torchvision's wheels from the package index are built against the CUDA torch. With a CPU build their compiled operators cannot
be loaded, and `import torchvision` fails with "operator torchvision::nms does not exist", because it registers shape rules for
undefined operators. Models, transforms and data sets do not need those operators, so their names are declared here: only if the
compiled ones are missing, and without an implementation (calls still fail).

Use `torchvision = import_torchvision()` wherever torchvision is needed. transformers imports it too: call this first.
"""

from __future__ import annotations

import importlib
from types import ModuleType

OPERATORS = ("nms", "qnms")
_declared: list[object] = []
"""Keeps the operator library alive: its definitions go when it is collected."""


def import_torchvision() -> ModuleType:
    """Import torchvision, declaring its operators first where its own compiled ones could not load."""
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    _declare_operators()
    return importlib.import_module("torchvision")


def _declare_operators() -> None:
    import torch

    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for name in OPERATORS:
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
    _declared.append(library)
