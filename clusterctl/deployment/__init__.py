"""What facts decide before any plan: addresses, ranks, RDMA devices, the nodes' environment, firewall rules."""
