"""Pictures on disk to a manifest, and a manifest to folds."""
