"""The mini world: a small HaGRID of drawn hands, with the truth about every picture."""
