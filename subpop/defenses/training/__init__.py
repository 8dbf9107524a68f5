"""Defenses that change how the victim is trained: each has its own training loop over the victim's network and recipe."""
