"""Scripts that run in a probe's container, on the image's own python3. Nothing here imports them."""

from pathlib import Path

PEERS_SOURCE = Path(__file__).with_name("peers.py")
"""The probe of the network between the nodes: standard library only."""

REPORT_SOURCE = Path(__file__).with_name("report.py")
"""What the image says about itself: standard library only, for older Pythons too."""

COLLECTIVE_SOURCE = Path(__file__).with_name("collective.py")
"""A short all-reduce across the nodes; needs the image's torch."""
