"""One lock a cluster, held on every node, and what each run writes down there."""
