"""What is there: one parallel, read-only pass over the nodes (gather.py), parsed by pure code (parse.py)."""
