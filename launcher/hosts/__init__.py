"""Other machines: which there are, how they are reached, and what they can be asked to do."""
