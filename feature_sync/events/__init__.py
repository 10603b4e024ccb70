"""What an event does: user states, item counters, trending items, the log of what was applied."""
