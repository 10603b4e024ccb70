"""Programs that bound a server's throughput from above and below."""
