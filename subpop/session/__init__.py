"""A session: the pytest plug-in, the commands, and one run from plan to report."""
