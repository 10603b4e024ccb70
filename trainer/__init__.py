"""The offline half: from a file of interactions to a registered bundle."""
