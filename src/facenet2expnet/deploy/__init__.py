"""Hand a trained model over: other formats, smaller numbers."""
