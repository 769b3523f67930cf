"""Boltzmann generators from time-dependent energy models."""

__version__ = "0.1.0"
