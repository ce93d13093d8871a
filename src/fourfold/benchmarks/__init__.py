"""Workloads: model, data, objective, unit of work. One module a family."""
