"""The door to the container engine: its SDK, over the SSH connection of the node."""
