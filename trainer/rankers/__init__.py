"""What puts the candidates in order, a folder for each kind of ranker; `all_rankers.RANKERS` lists them."""
