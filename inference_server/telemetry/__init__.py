"""What a process says about itself: statistics, traces, the impression log and the log."""
