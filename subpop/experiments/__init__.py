"""Measuring cells: the context that builds their parts, trials, and measurements of other kinds."""
