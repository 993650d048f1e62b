"""Use trained models."""
