"""vLLM platform plugin of the rehearsal lab, for vLLM 0.32's CPU build.

vLLM refuses its Ray executor on CPUs. Its own extension point (entry point group `vllm.platform_plugins`) lets the
lab run that executor all the same: what is rehearsed is the machinery around the accelerator, not the accelerator.
"""

from __future__ import annotations


def register() -> str:
    """Name the platform class; vLLM imports it once its own modules are ready."""
    return "clusterctl_lab_platform.platform.LabPlatform"
