"""A pytest benchmark for subpopulation data poisoning. Importing this package is cheap: parts load when they are named."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from subpop.types import BadInput, Defended, Fit, Knowledge, Model, TrainingSet

__version__ = "0.1.0"
__all__ = ["BadInput", "Defended", "Fit", "Knowledge", "Model", "TrainingSet"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("subpop.types"), name)
    raise AttributeError(f"module 'subpop' has no attribute {name!r}; it offers {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted([*(name for name in globals() if name.startswith("__")), *__all__])
