"""The engine's own words for texts: the command lines that an operator types on a node. Only values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EngineCommands:
    """How things are said with one engine. Nothing here is run by us."""

    program: str
    """Its command."""
    service: str
    """Its systemd unit."""
    socket: str
    """Where it listens on a node."""

    def pull(self, image: str) -> str:
        """Bring an image to the node."""
        return f"{self.program} pull {image}"

    def copy(self, image: str, node: str) -> str:
        """Bring an image from this machine to a node without a registry."""
        return f"{self.program} save {image} | ssh {node} {self.program} load"

    def run(self, arguments: str) -> str:
        """Run a container in the foreground, which leaves nothing behind."""
        return f"{self.program} run --rm {arguments}"

    def remove(self, container: str) -> str:
        """Remove a container, running or not."""
        return f"{self.program} rm -f {container}"

    def remove_volume(self, volume: str) -> str:
        """Remove a volume with all that is in it."""
        return f"{self.program} volume rm {volume}"

    def unpause(self, container: str) -> str:
        """Let a container go on that somebody paused."""
        return f"{self.program} unpause {container}"

    @property
    def start(self) -> str:
        """The command that creates a container and starts it."""
        return f"{self.program} run"

    @property
    def stop(self) -> str:
        """The command that stops containers."""
        return f"{self.program} stop"

    @property
    def running(self) -> str:
        """The containers that run."""
        return f"{self.program} ps"

    @property
    def list(self) -> str:
        """All containers, running or not."""
        return f"{self.program} ps --all"

    @property
    def inspect(self) -> str:
        """The command that shows everything of a container."""
        return f"{self.program} inspect"

    @property
    def info(self) -> str:
        """What the engine is and how it is set up."""
        return f"{self.program} info"

    @property
    def version(self) -> str:
        """Whether the engine answers, and which it is."""
        return f"{self.program} version"

    @property
    def events(self) -> str:
        """What happened to containers in the last hour."""
        return f"{self.program} events --since 1h"

    @property
    def disk_use(self) -> str:
        """What images, containers and volumes take of the disk."""
        return f"{self.program} system df"

    @property
    def prune(self) -> str:
        """Remove the images that nothing uses."""
        return f"{self.program} image prune"

    @property
    def status(self) -> str:
        """Whether the engine's service runs."""
        return f"systemctl status {self.service}"

    @property
    def restart(self) -> str:
        """Start the engine's service again."""
        return f"systemctl restart {self.service}"

    @property
    def restart_all(self) -> str:
        """Start the engine's service again, and the one below it that keeps the containers."""
        return f"systemctl restart containerd {self.service}"

    @property
    def edit(self) -> str:
        """Change the settings of the engine's service."""
        return f"systemctl edit {self.service}"

    @property
    def give_gpus(self) -> str:
        """Make the NVIDIA runtime known to the engine, which must be started again then."""
        return f"nvidia-ctk runtime configure --runtime={self.program}"

    @property
    def switch_cdi_on(self) -> str:
        """Have the engine give devices by CDI, where that is not on by itself."""
        settings = '"features": {"cdi": true}'
        return f"on the node: add {settings} to /etc/{self.program}/daemon.json, then {self.restart}"

    def permit(self, user: str) -> str:
        """Let a user of the node use the engine: its group is called like its service."""
        return f"usermod -aG {self.service} {user} and log in again, or set container.sudo: true"

    @property
    def install(self) -> str:
        """Bring the engine to a node."""
        return "install Docker Engine on the node (Debian: apt-get install docker.io)"

    @property
    def journal(self) -> str:
        """The last lines of the engine's own log."""
        return f"journalctl -u {self.service} -n 50"


@dataclass(frozen=True)
class PodmanCommands(EngineCommands):
    """Podman: no daemon, a service that only serves the API, started by its socket."""

    @property
    def status(self) -> str:
        """Whether the API's socket is there."""
        return f"systemctl status {self.service}.socket"

    @property
    def restart(self) -> str:
        """Serve the API anew; containers go on."""
        return f"systemctl restart {self.service}.socket"

    @property
    def restart_all(self) -> str:
        """The same: there is nothing below it."""
        return self.restart

    @property
    def edit(self) -> str:
        """Change the settings of what starts the containers."""
        return f"systemctl edit {self.service}.service"

    @property
    def give_gpus(self) -> str:
        """Podman takes GPUs by CDI."""
        return "nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml"

    @property
    def switch_cdi_on(self) -> str:
        """It cannot be switched off."""
        return f"on the node: {self.give_gpus}"

    def permit(self, user: str) -> str:
        """Root's Podman is root's: there is no group for it."""
        return f"let {user} run it by sudo and set container.sudo: true, or log in as root"

    @property
    def install(self) -> str:
        """Bring the engine to a node."""
        return "install Podman on the node (Debian: apt-get install podman), then systemctl enable --now podman.socket"


DOCKER = EngineCommands("docker", "docker", "/var/run/docker.sock")
PODMAN = PodmanCommands("podman", "podman", "/run/podman/podman.sock")
