"""Fourfold's sweeper and launchers, where Hydra looks for plugins. hydra_plugins itself has no __init__."""
