"""The edges to other people's software: proposals from bgflow, zuko or anywhere else.

Nothing here is imported by the rest of bgdiff, and no optional package is imported before it is needed.
"""
