"""Find, align and store faces as the crop contract says."""
