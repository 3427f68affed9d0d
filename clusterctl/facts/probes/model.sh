# The model's directory.

# Absent is 44; a directory that is there and may not be entered is a failure of the probe.
enter_model() {
    cd "$model_path" && return 0
    [ -e "$model_path" ] || return 44
    return 1
}

model_files() {
    enter_model || return
    find -L . -maxdepth 1 -type f -exec stat -L -c '%s %n' {} +
}

model_file() {
    enter_model || return
    [ -e "$1" ] || return 44
    cat "$1"
}

section model_files model_files
section model_config model_file config.json
section model_index model_file model.safetensors.index.json
