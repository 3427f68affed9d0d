"""The only code that changes the cluster's own containers."""
