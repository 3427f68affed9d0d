"""What runs, whether it is healthy, and whether it is what the inventory declares."""
