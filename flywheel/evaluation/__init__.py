"""Evaluation: thresholds, metrics, statistics, retrieval, baselines and comparison of models on frozen test pairs."""
