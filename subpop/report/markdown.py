"""GitHub flavoured markdown from untrusted text: names are escaped, and tables are padded to be readable unrendered."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

from tabulate import tabulate

from subpop.types.printable import printable

SUMMARY_BYTES = 1_000_000
"""GitHub discards job summaries larger than 1 MiB."""


def escape(text: object) -> str:
    """Text on one line with all markup escaped, including pipes, which would end a table cell."""
    line = " ".join(printable(text).split())
    line = re.sub(r"([\\`*\[\]|~$])", r"\\\1", line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))
    # GitHub treats underscores inside a word literally; at its beginning or end they would start emphasis.
    return re.sub(r"(?<!\w)_+|_+(?!\w)", lambda found: "\\_" * len(found.group()), line)


def code(text: object) -> str:
    """Text as inline code, outside tables, with a fence longer than any run of backticks in it."""
    line = " ".join(printable(text).split())
    if not line:
        return ""
    fence = "`" * (max((len(run) for run in re.findall(r"`+", line)), default=0) + 1)
    space = " " if line[0] == "`" or line[-1] == "`" else ""
    return f"{fence}{space}{line}{space}{fence}"


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """Format a table whose first `left` columns are text and the others numbers; cells are already escaped."""
    alignments = ["left" if i < left else "right" for i in range(len(headers))]
    return tabulate([list(row) for row in rows], list(headers), tablefmt="pipe", disable_numparse=True, colalign=alignments)


def folded(title: str, text: str) -> str:
    """A collapsed block with a plain-text title."""
    return f"<details><summary>{html.escape(printable(title))}</summary>\n\n{text}\n\n</details>"


def picture(name: str, alt: str, caption: str, command: str) -> str:
    """A figure of the `figures` folder, linked to its SVG, with its caption and the command that made it."""
    made_by = f" Made by {code(command)}." if command else ""
    return f"[![{escape(alt)}](figures/{name}.png)](figures/{name}.svg)\n\n{caption}{made_by}"


def without_files(text: str) -> str:
    """The text for places without the report's files: figures and captions are dropped, links to pages become plain text."""
    text = re.sub(r"^\[!\[[^\n]*\]\(figures/[^\n]*\n\n[^\n]*\n\n?", "", text, flags=re.MULTILINE)
    text = re.sub(r"\[([^\]\n]*)\]\((?!https?:)[^)\n]*\)", r"\1", text)
    encoded = text.encode()
    if len(encoded) <= SUMMARY_BYTES:
        return text
    cut = encoded[:SUMMARY_BYTES].decode(errors="ignore").rpartition("\n")[0]
    return f"{cut}\n\nCut here: the whole report is too long for a job summary.\n"
