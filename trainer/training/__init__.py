"""From a split to trained towers."""
