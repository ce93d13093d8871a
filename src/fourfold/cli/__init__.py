"""What `python -m fourfold` does, one module a command. None of it imports torch; MLflow only where it is used."""
