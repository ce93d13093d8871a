"""Devices: find what was asked for, never use something else under its name."""
