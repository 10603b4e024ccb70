"""A canary, a new version that takes traffic in steps: who is in it, what is counted of it, and when it is bad."""
