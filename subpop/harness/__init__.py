"""Running defenses: built-in ones in batches in this process, plug-ins in a separate process."""
