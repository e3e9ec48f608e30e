"""What became of a run, as a page or a text that a person reads once it is over, or meanwhile."""
