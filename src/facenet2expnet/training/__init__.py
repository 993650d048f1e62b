"""How the networks learn: losses, augmentation, the one loop and its stages."""
