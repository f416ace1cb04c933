"""Figures: the learning curve and the reliability of probabilities."""
