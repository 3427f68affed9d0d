"""One file for each command that takes several stages: up, down, restart, logs, exec, watch."""
