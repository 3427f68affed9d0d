# Whole headers of safetensors files, as `sh -s -- DIRECTORY FILE…`: for each a line `LENGTH NAME`, then LENGTH bytes.
# Compressed where the node can. Read by clusterctl/facts/model_headers.py.
LC_ALL=C
export LC_ALL
PATH="$PATH:/usr/local/bin:/usr/bin:/bin"
cd "$1" || exit
shift

headers() {
    for shard in "$@"; do
        # shellcheck disable=SC2046
        set -- $(od -A n -v -t u1 -N 8 "$shard")
        length=$(($1 + $2 * 256 + $3 * 65536 + $4 * 16777216))
        printf '%s %s\n' "$length" "$shard"
        head -c "$((8 + length))" "$shard" | tail -c +9
    done
}

if command -v gzip >/dev/null; then
    headers "$@" | gzip -c -1
else
    headers "$@"
fi
