"""What everything runs on: threads, hardware, progress, hashes, and the store of results."""
