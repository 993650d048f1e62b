"""Hand a trained model over: other formats, a service, a web page, the hub, scikit-learn."""

from pathlib import Path

WEB = Path(__file__).parent / "web"
"""The page: plain files. In `browser` are those that replace the service."""
