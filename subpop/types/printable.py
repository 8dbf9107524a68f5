"""Other people's text (exception messages, what a defense prints, names of files and classes) made safe to print and to write."""

from __future__ import annotations

import re

_ESCAPE_SEQUENCE = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-Z\\^-~])|\x9b[0-?]*[ -/]*[@-~]"
)
"""What a terminal obeys: colours and cursor movements (CSI), titles and links (OSC and its kin), two-character escapes."""

_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u180e\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e0fff]"
)
"""C0 and C1 controls but tab and newline, marks that change the direction of writing, invisible tags, lone surrogates."""

_COMMAND = re.compile(r"^(\s*):(?=:)", re.MULTILINE)
"""GitHub obeys a line that begins `::name`, whatever white space stands before it."""

_OLD_COMMAND = re.compile(r"#(?=#\w*\[)")
"""`##[name]` is obeyed anywhere in a line; `##vso[`, `##teamcity[` are other services' forms of it."""


def printable(text: object) -> str:
    """The text without anything that a terminal, a log reader or an encoder obeys or chokes on; newlines and tabs stay.

    Escape sequences are dropped, other control characters and lone surrogates are written out (`\\x07`, `\\ud800`), and lines
    that a CI service would read as commands get a space. The result is valid UTF-8, and the same if it is passed in again.
    """
    said = str(text)
    if said.isprintable() and "::" not in said and "##" not in said:
        return said
    lines = _ESCAPE_SEQUENCE.sub("", said).replace("\r\n", "\n").replace("\r", "\n")
    seen = _UNSEEN.sub(lambda found: found.group().encode("unicode_escape").decode("ascii"), lines)
    return _OLD_COMMAND.sub("# ", _COMMAND.sub(r"\1: ", seen))


def said_by(error: BaseException) -> str:
    """The message of an exception, whose own code may fail while it is asked."""
    try:
        return printable(error)
    except (Exception, SystemExit):
        return "(its message cannot be read)"


def described(error: BaseException) -> str:
    """The kind of an exception and its message: `KeyError: 'no such thing'`."""
    return f"{printable(type(error).__name__)}: {said_by(error)}"


def in_one_line(error: BaseException) -> str:
    """`described`, without line ends."""
    return " ".join(described(error).split())
