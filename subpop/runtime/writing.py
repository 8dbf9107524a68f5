"""Atomic writing of files: they are written under a temporary name and then renamed."""

from __future__ import annotations

import errno
from pathlib import Path
from uuid import uuid4

FULL = errno.ENOSPC, errno.EDQUOT, errno.EFBIG
"""Errors of a disk or a quota that is full."""


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace a file by this content in one step: after a kill, and for any reader, it is the old file or the new one.

    Text is encoded as UTF-8 whatever the locale, with line ends unchanged. An OSError names the file.
    """
    unfinished = path.with_name(f".{path.name}.{uuid4().hex}.unfinished")
    try:
        unfinished.write_bytes(content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)
        unfinished.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        unfinished.unlink(missing_ok=True)
