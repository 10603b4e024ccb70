"""Scores of a trained model as the server computes them: towers, blend, ranking of candidates."""
