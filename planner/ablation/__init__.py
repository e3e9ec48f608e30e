"""Ablations: which runs are compared, and what their figures say. Nothing is trained here."""
