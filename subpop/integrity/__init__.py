"""Does a plug-in defense win by what it learned from its rows? Probes of what cannot be closed, and the `integrity` column.

Each probe runs the plug-in once more, in a child process of its own, on something that its code cannot know: a recorded trial
alone (`replay`), moved test rows (`moved`), training sets with label canaries (`canaries`), poison from a secret seed (`draws`),
a mixture from a secret seed (`mixtures`). `inspector` decides which run, and keeps what they found.
"""

from subpop.integrity.findings import BUILT_IN, CLEAN, DECLARED, UNCHECKED, Finding
from subpop.integrity.inspector import Inspector, Integrity
from subpop.integrity.record import Recorder

__all__ = ["BUILT_IN", "CLEAN", "DECLARED", "UNCHECKED", "Finding", "Inspector", "Integrity", "Recorder"]
