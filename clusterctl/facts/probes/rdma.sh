# RDMA devices.

infiniband() {
    [ -d /dev/infiniband ] || return 44
    ls /dev/infiniband
}

section infiniband infiniband
