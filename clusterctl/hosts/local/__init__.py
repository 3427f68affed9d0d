"""This machine itself as a node: processes in place of SSH sessions."""
