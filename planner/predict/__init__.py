"""Predictions beside published measurements: rows of a table → one definition → errors."""
