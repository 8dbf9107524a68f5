"""Making untrusted text (exception messages, output of defenses, names of files and classes) safe to print and to write."""

from __future__ import annotations

import re

_ESCAPE_SEQUENCE = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-Z\\^-~])|\x9b[0-?]*[ -/]*[@-~]"
)
"""Terminal escape sequences: colours and cursor movements (CSI), titles and links (OSC and similar), two-character escapes."""

_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u180e\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e0fff]"
)
"""C0 and C1 controls except tab and newline, marks that change the writing direction, invisible tags, lone surrogates."""

_COMMAND = re.compile(r"^(\s*):(?=:)", re.MULTILINE)
"""GitHub treats a line that begins with `::name` as a command, even after white space."""

_OLD_COMMAND = re.compile(r"#(?=#\w*\[)")
"""`##[name]` is a command anywhere in a line; `##vso[` and `##teamcity[` are those of other services."""


def printable(text: object) -> str:
    """The text without anything that a terminal or a log reader would interpret or an encoder reject.

    Newlines and tabs are preserved, escape sequences are dropped, other control characters and lone surrogates are escaped
    (`\\x07`, `\\ud800`), and lines that a CI service would read as commands get a space. The result is valid UTF-8, and the
    function is idempotent.
    """
    said = str(text)
    if said.isprintable() and "::" not in said and "##" not in said:
        return said
    lines = _ESCAPE_SEQUENCE.sub("", said).replace("\r\n", "\n").replace("\r", "\n")
    seen = _UNSEEN.sub(lambda found: found.group().encode("unicode_escape").decode("ascii"), lines)
    return _OLD_COMMAND.sub("# ", _COMMAND.sub(r"\1: ", seen))


def said_by(error: BaseException) -> str:
    """The message of an exception, whose own code may raise an error when it is converted to text."""
    try:
        return printable(error)
    except (Exception, SystemExit):
        return "(its message cannot be read)"


def described(error: BaseException) -> str:
    """The kind of an exception and its message: `KeyError: 'no such thing'`."""
    return f"{printable(type(error).__name__)}: {said_by(error)}"


def in_one_line(error: BaseException) -> str:
    """`described`, on one line."""
    return " ".join(described(error).split())
