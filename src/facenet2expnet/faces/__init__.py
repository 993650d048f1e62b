"""Pictures to aligned face crops, as the crop contract says."""
