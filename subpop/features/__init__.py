"""What turns pictures and texts into features: networks, encoders, and frozen representations."""
