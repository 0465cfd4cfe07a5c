"""Time the training steps against a plain loop that does what the paper's released code does."""
