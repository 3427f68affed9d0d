"""What known lines of logs mean: patterns only, each with the version it was seen in."""
