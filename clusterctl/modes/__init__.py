"""One file for each way of serving: what the nodes run, what opens the gate, what is watched."""
