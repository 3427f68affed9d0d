"""The lab's container image, made on this machine: no registry is needed. See build.py for the steps."""
