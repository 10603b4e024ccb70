"""Release of a registered version: held-out users, the serving engine's answers, the gate, its report, the aliases."""
