"""The hybrid blend: shares of calibrated scores, which need no network."""
