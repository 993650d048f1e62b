"""The networks: the expression net, its bridge, and the face nets."""
