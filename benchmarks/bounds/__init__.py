"""What bounds a server's throughput from above and below."""
