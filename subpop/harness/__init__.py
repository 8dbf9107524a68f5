"""How defenses run: in batches here, or as other people's code in a process of its own."""
