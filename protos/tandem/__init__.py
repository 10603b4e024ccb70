"""What Tandem's programs and its clients must agree on: the public API (`v1`) and the contract (`contract`)."""
