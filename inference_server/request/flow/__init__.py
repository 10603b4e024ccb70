"""What the stages of a request share: types that pass between them, limits, ladder, engine calls."""
