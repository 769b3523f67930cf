"""The edges to other people's software: proposals from bgflow, zuko or anywhere else; the way back to OpenMM.

No optional package is imported before it is needed, and of the rest of bgdiff only commands use what is here.
"""
