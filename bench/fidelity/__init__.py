"""Predicted beside measured: the parts of `bench.planner_fidelity`."""
