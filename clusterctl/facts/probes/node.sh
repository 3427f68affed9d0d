# The machine itself: name, kernel, memory, addresses, listeners, engine.

addresses() {
    ip -o -4 addr show
    ip_code=$?
    return "$ip_code"
}

# Only where there is no `ip` (slim images of Ubuntu and Debian), or one that does not know -o (busybox).
fib_trie() {
    [ "$ip_code" = 0 ] && return 44
    cat "$root/proc/net/fib_trie"
}

engine_socket() {
    command -v docker || return 127
    if [ ! -S /var/run/docker.sock ]; then
        # The command may be told of another engine (rootless, a context): then only asking it tells.
        [ -n "${DOCKER_HOST-}" ] && return 0
        [ -S "${XDG_RUNTIME_DIR:-/run}/docker.sock" ] && return 0
        grep -qs currentContext "${HOME:-/root}/.docker/config.json" && return 0
        return 44
    fi
    [ -w /var/run/docker.sock ] || return 13
}

section hostname cat /proc/sys/kernel/hostname
section kernel cat /proc/sys/kernel/osrelease
section memory cat /proc/meminfo
section addresses addresses
section fib_trie fib_trie
section tcp cat /proc/net/tcp
section tcp6 cat /proc/net/tcp6
section sockets ss -Hltnp
section engine_socket engine_socket
