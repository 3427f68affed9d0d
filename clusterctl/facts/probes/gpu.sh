# Accelerators.

gpus() {
    command -v nvidia-smi >/dev/null || return 44
    nvidia-smi --query-gpu=index,name,uuid,memory.total,memory.used --format=csv,noheader,nounits
}

gpu_processes() {
    command -v nvidia-smi >/dev/null || return 44
    nvidia-smi --query-compute-apps=gpu_uuid,pid,process_name,used_memory --format=csv,noheader,nounits
}

section gpus gpus
section gpu_processes gpu_processes
