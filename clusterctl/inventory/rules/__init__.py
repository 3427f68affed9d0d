"""Rules that need more than one field of the inventory, one file for each of its parts."""
