"""A trained model elsewhere: as a file, a service, a web page."""
