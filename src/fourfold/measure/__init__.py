"""Measurement: when each step ended, how much work it did, what memory it took; nothing else touches a clock."""
