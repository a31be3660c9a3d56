"""Makes what deploy/Dockerfile describes without Docker, and runs the program in it.

    python3 tests/image/check.py target/debug/gavel FOLDER

The build stage is compared by what it builds; the program is the one that is given. Each instruction of the last stage is carried out, in a root
file system of Debian's packages. Then the program runs as the image's user, in that root read only, as the pods of deploy/helm do.
"""

import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Longer than this nothing here takes.
PATIENCE = 60


def main(program, place):
    place = pathlib.Path(place)
    build, last = stages((ROOT / "deploy" / "Dockerfile").read_text())
    image = Image(place / "root")
    for instruction, rest in last:
        image.carry_out(instruction, rest, built(build), program)
    print("the image is made:", image)
    as_pods_do(image, place)
    a_whole_run(image, place)
    encrypted(image, place)


def stages(text):
    """The instructions of each stage: (name, rest)."""
    text = re.sub(r"\\\n", " ", re.sub(r"(?m)^\s*#.*\n?", "", text))
    found = []
    for line in filter(None, map(str.strip, text.splitlines())):
        instruction, _, rest = line.partition(" ")
        if instruction == "FROM":
            found.append([])
        found[-1].append((instruction, rest))
    return found


def built(build):
    """The file that the build stage leaves: that of `--bin`, with features that the program has."""
    (command,) = (rest for instruction, rest in build if instruction == "RUN" and "cargo build" in rest)
    words = shlex.split(command)
    assert "--release" in words and "--locked" in words, command
    known = tomllib.loads((ROOT / "cli" / "Cargo.toml").read_text())["features"]
    features = words[words.index("--features") + 1].split(",")
    assert set(features) <= set(known), f"{features} of {list(known)}"
    (folder,) = (rest for instruction, rest in build if instruction == "WORKDIR")
    return f"{folder}/target/release/{words[words.index('--bin') + 1]}"


class Image:
    """A root file system, and how it is entered."""

    def __init__(self, root):
        self.root = root
        self.user = self.group = 0
        self.folder = "/"
        self.entry = []

    def __str__(self):
        return f"{self.entry} as {self.user}:{self.group} in {self.folder}"

    def carry_out(self, instruction, rest, built, program):
        match instruction:
            case "FROM":
                suite = re.fullmatch(r"debian:(\w+)-slim", rest).group(1)
                subprocess.run(["mmdebstrap", "--quiet", "--variant=minbase", suite, self.root], check=True)
            case "COPY":
                source, target = re.fullmatch(r"--from=build (\S+) (\S+)", rest).groups()
                assert source == built, f"{source} is copied, {built} is built"
                shutil.copy(program, self.root / target.lstrip("/"))
            case "RUN":
                self.as_root(rest)
            case "USER":
                self.user, self.group = map(int, rest.split(":"))
            case "WORKDIR":
                self.folder = rest
            case "ENTRYPOINT":
                self.entry = json.loads(rest)
            case _:
                raise AssertionError(f"{instruction} is not understood here")

    def as_root(self, command):
        """Changes the image by a command of the shell, with the network of this machine."""
        enter = """
            set -e
            mount --rbind /dev "$0/dev"
            mount -t proc proc "$0/proc"
            for file in resolv.conf hosts; do touch "$0/etc/$file"; mount --bind "/etc/$file" "$0/etc/$file"; done
            exec chroot "$0" /bin/sh -c "$1"
        """
        unshare = ["unshare", "--mount", "--pid", "--fork", "sh", "-c", enter, self.root, command]
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive"}
        told = subprocess.run(unshare, env=environment, capture_output=True, text=True)
        assert told.returncode == 0, f"{command}: {told.stdout}{told.stderr}"

    def command(self, *arguments, data=None):
        """The entry point with these arguments as the image's user: the root is read only, /tmp is its own, `data` is at /data, and the
        repository at /source to be read."""
        (self.root / "data").mkdir(exist_ok=True)
        (self.root / "source").mkdir(exist_ok=True)
        mounts = ["--ro-bind", self.root, "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp", "--ro-bind", ROOT, "/source"]
        if data:
            mounts += ["--bind", data, "/data"]
        user = ["setpriv", f"--reuid={self.user}", f"--regid={self.group}", "--clear-groups", "--no-new-privs"]
        variables = ["--clearenv", "--setenv", "PATH", "/usr/local/bin:/usr/bin:/bin"]
        return ["bwrap", *mounts, *variables, "--chdir", self.folder, "--cap-add", "ALL", *user, *self.entry, *arguments]

    def run(self, *arguments, data=None):
        return subprocess.run(self.command(*arguments, data=data), capture_output=True, text=True, timeout=PATIENCE)

    def volume(self, folder, owner=None):
        """A folder that belongs to the image's user, or to another."""
        folder.mkdir()
        owner = owner or (self.user, self.group)
        os.chown(folder, *owner)
        return folder


class Coordinator:
    """A coordinator in the image, while the block lasts."""

    def __init__(self, image, data, *arguments):
        ports = ["--data", "/data/state", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"]
        self.command = image.command("coordinator", *ports, *arguments, data=data)

    def __enter__(self):
        told, tell = os.pipe()
        command = [self.command[0], "--info-fd", str(tell), *self.command[1:]]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, pass_fds=[tell])
        os.close(tell)
        with open(told) as info:
            self.inner = json.load(info)["child-pid"]
        return json.loads(self.process.stdout.readline())

    def __exit__(self, *_):
        # To the program itself, as Kubernetes does: bubblewrap passes no signal on.
        os.kill(self.inner, signal.SIGTERM)
        assert self.process.wait(timeout=PATIENCE) == 0, "the coordinator did not end in good order"


def as_pods_do(image, place):
    told = image.run("--version")
    assert told.returncode == 0 and told.stdout.startswith("gavel "), told

    foreign = image.volume(place / "foreign", owner=(1234, 1234))
    refused = image.run("coordinator", "--data", "/data", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", data=foreign)
    assert refused.returncode == 1, refused
    for words in ("/data", "Permission denied", f"user {image.user}", "1234"):
        assert words in refused.stderr, f"`{words}` is not in\n{refused.stderr}"

    with Coordinator(image, image.volume(place / "own")) as addresses:
        with urllib.request.urlopen(f"{addresses['http']}/readyz", timeout=PATIENCE) as answer:
            assert answer.status == 200
    print("a volume of its own serves, another's is refused in words")


def a_whole_run(image, place):
    data = image.volume(place / "run")
    done = image.run("run", "/source/tests/compatibility/small.toml", "--out", "/data/run", data=data)
    assert done.returncode == 0, done.stderr
    told = subprocess.run(["sha256sum", data / "run/adapter/adapter_model.safetensors"], capture_output=True, text=True)
    # The bytes that the run has on every machine (tests/compatibility/main.rs).
    assert told.stdout.startswith("65e51690a65434c2"), told
    print("a whole run needs nothing writable but its volume, and has its bytes")


def encrypted(image, place):
    data = image.volume(place / "keys")
    made = image.run("certificates", "new", "--out", "/data/keys", "--name", "localhost", data=data)
    assert made.returncode == 0, made.stderr
    token = image.run("token", "new", "--role", "viewer", "--name", "viewer", "--tokens", "/data/tokens.toml", data=data)
    (data / "token").write_text(token.stdout)
    os.chown(data / "token", image.user, image.group)
    keys = ["--tls-cert", "/data/keys/server.pem", "--tls-key", "/data/keys/server.key", "--tokens", "/data/tokens.toml"]
    with Coordinator(image, data, *keys) as addresses:
        ask = ["status", "--connect", addresses["grpc"], "--token-file", "/data/token"]
        stranger = image.run(*ask, data=data)
        assert stranger.returncode == 1, stranger
        assert "an authority that this machine does not trust" in stranger.stderr, stranger.stderr
        assert "--tls-ca" in stranger.stderr, stranger.stderr
        shutil.copy(data / "keys/ca.pem", image.root / "usr/local/share/ca-certificates/fleet.crt")
        image.as_root("update-ca-certificates")
        trusted = image.run(*ask, data=data)
        assert trusted.returncode == 0 and "no runs" in trusted.stdout, trusted
    print("an authority that the image trusts is trusted, another one is refused in words")


if __name__ == "__main__":
    main(*sys.argv[1:])
