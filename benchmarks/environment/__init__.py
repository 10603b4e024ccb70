"""What every benchmark works with: the machine's cores, the store, the servers."""
