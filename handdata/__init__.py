"""Make a data set of hand gesture photographs with texts that name the gesture."""
