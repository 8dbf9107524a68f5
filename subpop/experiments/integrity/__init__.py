"""Probes that check whether a plug-in defense succeeds because of what it learned from its rows, or cheats in a known way.

Each probe runs the plug-in again, in a separate child process, on data that its code cannot know: a single recorded trial
(`replay`), moved test rows (`moved`), training sets with label canaries (`canaries`), poison from a secret seed (`draws`), a
mixture from a secret seed (`mixtures`), mirrored columns (`views`); `cost` looks at what all rows lose. `inspector`
decides which probes run, and stores the findings. Attacks of the user's own are probed as well (`user_attacks`), in each session.
"""

from subpop.experiments.integrity.findings import BUILT_IN, CLEAN, DECLARED, UNCHECKED, Finding
from subpop.experiments.integrity.inspector import Inspector, Integrity
from subpop.experiments.integrity.record import Recorder

__all__ = ["BUILT_IN", "CLEAN", "DECLARED", "UNCHECKED", "Finding", "Inspector", "Integrity", "Recorder"]
