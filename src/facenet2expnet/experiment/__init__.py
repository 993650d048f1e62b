"""Trainings over folds, their metrics and their comparison."""
