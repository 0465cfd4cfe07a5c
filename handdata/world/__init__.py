"""The mini world: a small HaGRID of drawn hands, with the ground truth of every picture."""
