"""The audit of a user's data: how accurate each group is, and which groups have more errors than the other rows predict."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Room(ModuleType):
    """This package, which may be called like its main function: importing a module of it would hide a function of its name."""

    def __call__(self, x: Any, y: Any = None, **options: Any) -> Any:
        from subpop.audit.run import audit

        return audit(x, y, **options)


sys.modules[__name__].__class__ = _Room
