"""Both halves of the contract with a node's container: what is sent into it (inside/), and the names, paths and words
that the operator's side reads it by. Imports nothing of ours."""
