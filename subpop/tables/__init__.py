"""The kinds of measurement beside plain poisoning cells, one file each; `subpop.kinds.KINDS` names them."""
