"""What `verify` and `bench` write down, and how two such records compare. Pure, but for files.py."""
