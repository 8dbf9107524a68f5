"""The kinds of measurement beside plain poisoning cells, one file each; `subpop.types.kinds.KINDS` names them."""
