"""Training that goes on from an earlier model, after users, items and interactions were added."""
