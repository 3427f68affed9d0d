"""What only running something shows: it starts, and removes, containers of its own."""
