"""Rankers order the candidates of a batch. `registry.RANKERS` is the table of them, in order of preference."""
