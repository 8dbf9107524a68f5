"""Infrastructure: threads, hardware, progress, seeds, hashes, and the store of results."""
