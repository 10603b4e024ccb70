"""From trained towers to a bundle."""
