"""Features of pictures and texts: networks, encoders, and frozen representations."""
