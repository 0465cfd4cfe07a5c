"""Where the photographs come from: HaGRID's annotations and archives, read in parts over HTTP or from disk."""
