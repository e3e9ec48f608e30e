"""A report for people and for other programs."""
