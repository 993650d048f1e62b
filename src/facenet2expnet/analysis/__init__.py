"""What the neurons have learned: the paper's figures."""
