"""The flags of every `handtrain` command: one frozen dataclass each, whose call runs the driver."""
