"""The doors to the nodes: SSH (Fabric), the container engine (Docker SDK), HTTP (httpx), and all nodes in parallel."""
