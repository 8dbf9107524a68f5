"""GitHub flavoured markdown from text that others chose: names are escaped, tables are padded to be read unrendered too."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

from tabulate import tabulate

from subpop.types.printable import printable

SUMMARY_BYTES = 1_000_000
"""GitHub drops a job summary of more than a mebibyte."""


def escape(text: object) -> str:
    """Text on one line in which nothing is markup: no pipe ends a cell, no star, bracket or tag is obeyed."""
    line = " ".join(printable(text).split())
    line = re.sub(r"([\\`*\[\]|~$])", r"\\\1", line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))
    # Inside a word GitHub takes an underscore as it is; at its ends it would start emphasis.
    return re.sub(r"(?<!\w)_+|_+(?!\w)", lambda found: "\\_" * len(found.group()), line)


def code(text: object) -> str:
    """Text as code, outside tables; a fence longer than any run of backticks inside."""
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
    """A block that opens at a click; the title is plain text."""
    return f"<details><summary>{html.escape(printable(title))}</summary>\n\n{text}\n\n</details>"


def picture(name: str, alt: str, caption: str, command: str) -> str:
    """A figure of the `figures` folder, linked to its scalable form, with its caption and the command that makes it."""
    made_by = f" Made by {code(command)}." if command else ""
    return f"[![{escape(alt)}](figures/{name}.png)](figures/{name}.svg)\n\n{caption}{made_by}"


def without_files(text: str) -> str:
    """The text where no file of the report can be reached: figures and their captions dropped, links to pages unlinked."""
    text = re.sub(r"^\[!\[[^\n]*\]\(figures/[^\n]*\n\n[^\n]*\n\n?", "", text, flags=re.MULTILINE)
    text = re.sub(r"\[([^\]\n]*)\]\((?!https?:)[^)\n]*\)", r"\1", text)
    encoded = text.encode()
    if len(encoded) <= SUMMARY_BYTES:
        return text
    cut = encoded[:SUMMARY_BYTES].decode(errors="ignore").rpartition("\n")[0]
    return f"{cut}\n\nCut here: the whole report is too long for a job summary.\n"
