"""How cells are measured: the context that builds their parts, their trials, and measurements of other kinds."""
