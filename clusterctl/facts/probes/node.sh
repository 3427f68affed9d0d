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

# How the kernel sends to the other nodes. What it answers for those whose address is declared (`get`: what it would do
# now, `match`: the route behind it, with all its hops), and what decides for the others: the rules, and the routes that
# lead into the private network or cover it. Arguments: the network, the own address, the other nodes' addresses.
routes_to_peers() {
    [ "$ip_code" = 0 ] && [ $# -ge 2 ] || return 44
    cidr=$1 own=$2
    shift 2
    from=
    [ "$own" = - ] || from="from $own"
    for peer in "$@"; do
        # shellcheck disable=SC2086
        printf 'get\t%s\t%s\n' "$peer" "$(ip -4 -o route get "$peer" $from 2>&1)"
        # shellcheck disable=SC2086
        printf 'match\t%s\t%s\n' "$peer" "$(ip -4 -o route get fibmatch "$peer" $from 2>/dev/null)"
    done
    tagged rule ip -4 -o rule show
    [ "$cidr" = - ] && return 0
    tagged route ip -4 -o route show table all root "$cidr"
    tagged route ip -4 -o route show table all match "$cidr"
}

# At most 500 lines of a command's answer, each with a word and a tab before it; what it cannot do prints nothing.
tagged() {
    tag=$1
    shift
    limited 3 "$@" 2>/dev/null | sed -n "1,500s/^/$tag\t/p"
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

# Root's, or of another login its own. Root's cannot even be looked at by others.
podman_socket() {
    command -v podman || return 127
    [ -n "${CONTAINER_HOST-}" ] && return 0
    own=/run
    [ "$(id -u)" = 0 ] || own=${XDG_RUNTIME_DIR:-/run/user/$(id -u)}
    echo "$own/podman/podman.sock"
    [ -S "$own/podman/podman.sock" ] || return 44
}

section hostname cat /proc/sys/kernel/hostname
section kernel cat /proc/sys/kernel/osrelease
section memory cat /proc/meminfo
section addresses addresses
section fib_trie fib_trie
section routes_to_peers routes_to_peers "$@"
section tcp cat /proc/net/tcp
section tcp6 cat /proc/net/tcp6
section sockets ss -Hltnp
section engine_socket engine_socket
section podman_socket podman_socket
