"""Settings: what the learner is told, as an immutable stream; and protocols: when it is judged."""
