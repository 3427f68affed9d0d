# The model's directory: names, sizes, links, small files by digest, and of each safetensors file its header's length.
# Only the directory itself is looked at: vLLM loads nothing from below it.

# One file may be the model (GGUF): then only it is looked at, for the container sees nothing else.
model_one=
case $model_path in *.gguf) [ -f "$model_path" ] && model_one=./${model_path##*/} ;; esac

# Absent is 44; a directory that is there and may not be entered is a failure of the probe.
enter_model() {
    if [ -n "$model_one" ]; then
        cd "${model_path%/*}/"
        return
    fi
    cd "$model_path" && return 0
    [ -e "$model_path" ] || return 44
    return 1
}

model_files() {
    enter_model || return
    find -L "${model_one:-.}" -maxdepth 1 -type f -exec stat -L -c '%s %n' {} +
}

model_single() {
    [ -n "$model_one" ] || return 44
    echo "${model_one#./}"
}

model_directory() {
    enter_model || return
    pwd -P
}

model_file() {
    enter_model || return
    [ -z "$model_one" ] && [ -e "$1" ] || return 44
    cat "$1"
}

# The index's last characters (is it whole?), then the files that it names: it may have megabytes, these are few lines.
model_index() {
    enter_model || return
    [ -z "$model_one" ] && [ -e "$1" ] || return 44
    tail -c 16 "$1" | tr -d '[:space:]' && echo &&
        tr '",' '\n\n' <"$1" | grep -E '\.(safetensors|bin)$' | sort -u
}

model_links() {
    enter_model || return
    find "${model_one:-.}" -maxdepth 1 -type l -exec ls -ld {} +
}

# Followed, and still a link: its target is not there.
model_dangling() {
    enter_model || return
    find -L "${model_one:-.}" -maxdepth 1 -type l
}

# At most 1 KiB (-size counts blocks of 512 bytes). grep's exit code only says whether one of them is a pointer.
model_pointers() {
    enter_model || return
    find -L "${model_one:-.}" -maxdepth 1 -type f -size -3 -exec grep -l '^version https://git-lfs.github.com/spec/v1' {} +
    return 0
}

# What downloads leave while they run: huggingface_hub's *.incomplete (in the directory, in its own folder below it, and
# among a cache's blobs), other tools' partial files, and rsync's .NAME.XXXXXX.
model_unfinished() {
    enter_model || return
    [ -z "$model_one" ] || return 0
    for place in . .cache/huggingface/download ../../blobs; do
        [ -d "$place" ] || continue
        find "$place" -maxdepth 1 -type f \
            \( -name '*.incomplete' -o -name '*.part' -o -name '*.aria2' -o -name '.*.safetensors.??????' \)
    done
}

# What vLLM and transformers read beside the weights; not above 32 MiB, so that this stays quick.
model_digests() {
    enter_model || return
    command -v sha256sum >/dev/null || return 127
    find -L "${model_one:-.}" -maxdepth 1 -type f -size -65536 \
        \( -name '*.json' -o -name '*.model' -o -name '*.tiktoken' -o -name '*.jinja' -o -name '*.py' \
        -o -name merges.txt -o -name vocab.txt \) -exec sha256sum {} +
}

# For each safetensors file its first eight bytes (the header's length, little-endian), then one digest over all headers;
# of a GGUF file, whose header does not say how long it is, the first MiB. Two processes a file: a model may have two hundred. Above 5 * 2^24 bytes it is no header (safetensors' limit: 100 MB).
model_headers() {
    enter_model || return
    set -- *.safetensors *.gguf
    [ -n "$model_one" ] && set -- "${model_one#./}"
    {
        for shard in "$@"; do
            [ -f "$shard" ] || continue
            # shellcheck disable=SC2046
            set -- $(od -A n -v -t u1 -N 8 "$shard")
            printf '%s\t%s\n' "$*" "$shard" >&3
            case $shard in *.gguf) head -c 1048576 "$shard" && continue ;; esac
            [ "$#" -eq 8 ] && [ "$5$6$7$8" = 0000 ] && [ "$4" -le 5 ] || continue
            head -c "$((8 + $1 + $2 * 256 + $3 * 65536 + $4 * 16777216))" "$shard"
        done | digest >&3
    } 3>&1
}

# Without sha256sum the lengths are known all the same.
digest() {
    if command -v sha256sum >/dev/null; then sha256sum; else cat >/dev/null; fi
}

# A Hugging Face cache's folder of a model holds its revisions, not the model.
model_snapshots() {
    enter_model || return
    [ -d snapshots ] || return 44
    ls snapshots
}

# What can read all bytes (check --full).
model_tools() {
    for tool in b3sum sha256sum; do
        command -v "$tool" >/dev/null && echo "$tool"
    done
    return 0
}

section model_files model_files
section model_directory model_directory
section model_single model_single
section model_config model_file config.json
section model_params model_file params.json
section model_index model_index model.safetensors.index.json
section model_index_mistral model_index consolidated.safetensors.index.json
section model_index_bin model_index pytorch_model.bin.index.json
section model_links model_links
section model_dangling model_dangling
section model_pointers model_pointers
section model_unfinished model_unfinished
section model_digests model_digests
section model_headers model_headers
section model_snapshots model_snapshots
section model_tools model_tools
