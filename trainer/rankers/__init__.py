"""Rankers order the candidates. Each kind has its own folder; `all_rankers.RANKERS` lists them."""
