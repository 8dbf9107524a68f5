"""Files that are whole or not there: written in UTF-8 under a name of their own, then moved into place."""

from __future__ import annotations

import os
from pathlib import Path


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace a file by this content in one step: a reader, or a kill at any moment, finds the old file or the new one.

    Text becomes UTF-8 whatever the locale, with line ends as they are.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        unfinished.write_bytes(content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
