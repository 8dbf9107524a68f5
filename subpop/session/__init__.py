"""Sessions: the pytest plug-in, the commands, and a run from plan to report."""
