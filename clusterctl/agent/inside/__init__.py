"""The agent: one package of plain files, sent into each node's container. Standard library only."""
