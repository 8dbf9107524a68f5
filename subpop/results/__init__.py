"""What becomes of trials: metrics, summaries, and their comparison with references."""
