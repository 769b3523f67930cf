"""Measurements that take too long for tests; each runs as ``python -m benchmarks.NAME``."""
