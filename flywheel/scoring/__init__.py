"""From the score of a pair to a probability and a decision. A leaf that training and evaluation share."""
