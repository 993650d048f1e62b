"""Hand a trained model over: other formats, a service, the hub, scikit-learn."""
