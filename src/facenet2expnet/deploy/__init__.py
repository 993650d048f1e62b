"""Hand a trained model over: other formats, a service, a web page, the hub, scikit-learn."""
