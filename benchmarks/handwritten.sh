#!/usr/bin/env bash
# A good hand-written script for what `clusterctl up` does, with ssh and docker commands: both nodes in parallel, one SSH
# connection a node (ControlMaster), one resident Ray probe, polling every 0.2 s where there is nothing to wait on, no
# sleeps. It does the same steps (check, containers, Ray, exactly N nodes, server, a real token) and none of the rest:
# no diagnosis, no roll-back, no comparison. Prints `phase seconds-since-the-epoch` lines; `down` removes everything.
#
# Variables: NAME, HEAD, WORKERS (addresses), SSH_OPTIONS, IMAGE, MODEL, SERVED, PORT, GCS_PORT, EXPECTED (nodes),
# HEAD_RUN, WORKER_RUN (docker run options), HEAD_RAY, WORKER_RAY (ray arguments), SERVE_OPTIONS.
set -euo pipefail

mark() { printf '%s %s\n' "$1" "$(date +%s.%N)"; }
on() { local address=$1; shift; ssh $SSH_OPTIONS "root@$address" "$@"; }
all() { # run a command on every node at once; fail when it fails on any
    local pids=()
    for address in $HEAD $WORKERS; do on "$address" "$@" & pids+=($!); done
    for pid in "${pids[@]}"; do wait "$pid"; done
}

down() {
    all "docker rm -f $NAME >/dev/null 2>&1 || true"
}

up() {
    mark start
    all "docker image inspect -f '{{.Id}}' $IMAGE; test -f $MODEL/config.json; ! ss -Hltn | grep -q ':$PORT '" >/dev/null
    mark checks
    on "$HEAD" "docker run -d --name $NAME --entrypoint ray $HEAD_RUN $IMAGE $HEAD_RAY" >/dev/null & local pids=($!)
    for worker in $WORKERS; do
        # The worker tries again until the head is there.
        on "$worker" "docker run -d --name $NAME --entrypoint bash $WORKER_RUN $IMAGE \
            -c 'until ray $WORKER_RAY; do :; done'" >/dev/null & pids+=($!)
    done
    for pid in "${pids[@]}"; do wait "$pid"; done
    mark containers

    coproc PROBE { on "$HEAD" "docker exec -i $NAME python3 -u -" <<'PYTHON'
import os, socket, time
host, port = os.environ["RAY_ADDRESS"].split(":")
while True:
    try:
        socket.create_connection((host, int(port)), 2).close()
        break
    except OSError:
        time.sleep(0.2)
import ray
ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
while True:
    print(sum(n["Alive"] for n in ray.nodes()), flush=True)
    time.sleep(0.2)
PYTHON
    }
    local probe=$PROBE_PID alive=0
    while [ "$alive" != "$EXPECTED" ]; do read -r alive <&"${PROBE[0]}"; done
    kill "$probe"
    mark ray

    on "$HEAD" "docker exec -d $NAME sh -c 'vllm serve $SERVE_OPTIONS >/proc/1/fd/1 2>&1'"
    local body="{\"model\": \"$SERVED\", \"prompt\": \"Hello\", \"max_tokens\": 1, \"ignore_eos\": true}"
    until curl -sf -m 300 "http://$HEAD:$PORT/v1/completions" -H 'Content-Type: application/json' -d "$body" \
        -o /dev/null; do sleep 0.2; done
    mark token
}

"$@"
