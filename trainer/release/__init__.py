"""From a registered version to a verdict: held-out users, the serving engine's answers, the gate, the report."""
