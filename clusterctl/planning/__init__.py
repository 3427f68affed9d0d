"""What to change, as values: addresses and layout (deployment.py), one container per node (container.py), the files
in it (files.py), and the difference to what is there (plan.py). Pure."""
