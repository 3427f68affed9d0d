"""Evidence of all nodes, and the causes it points to, best first."""
