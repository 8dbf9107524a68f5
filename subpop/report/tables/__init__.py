"""The kinds of measurement, one file each; they are registered in `subpop.types.kinds.KINDS`."""
