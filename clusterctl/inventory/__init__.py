"""inventory.yaml: the model (model.py), loading with file:line problems (load.py), rules across fields (rules.py)."""
