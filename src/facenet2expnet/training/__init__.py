"""How the networks learn: objectives, augmentation, the one loop and its stages."""
