"""A Dockerfile carried out without Docker, as root: its own RUN and COPY lines, on an overlay above a bare Debian.

    python -m tests.image --target cpu --base BASE --into DIRECTORY

BASE is a directory that debootstrap has made, with `python` in it. What a stage adds to it lies in DIRECTORY/STAGE.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What stands between two FROMs: `parent` is the name of a stage, or an image's."""

    name: str
    parent: str
    steps: tuple[tuple[str, str], ...]
    """(INSTRUCTION, its arguments), in order."""

    def all(self, instruction: str) -> list[str]:
        return [arguments for word, arguments in self.steps if word == instruction]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dockerfile:
    stages: dict[str, Stage]

    @classmethod
    def read(cls, path: Path) -> Self:
        lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
        stages: dict[str, Stage] = {}
        name, parent, steps = "", "", []
        for line in filter(None, "\n".join(lines).replace("\\\n", "").splitlines()):
            word, _, arguments = line.partition(" ")
            if word == "FROM":
                parent, name = re.fullmatch(r"(\S+) AS (\S+)", arguments).groups()
                steps = []
            elif name:
                steps.append((word, re.sub(r"\s{2,}", " ", arguments.strip())))
            if name:
                stages[name] = Stage(name=name, parent=parent, steps=tuple(steps))
        return cls(stages=stages)

    def lineage(self, target: str) -> list[Stage]:
        """The stages that `target` stands on, the lowest first, and itself."""
        stage = self.stages[target]
        return [*(self.lineage(stage.parent) if stage.parent in self.stages else []), stage]

    def steps(self, target: str) -> Iterator[tuple[str, str]]:
        for stage in self.lineage(target):
            yield from stage.steps

    def last(self, target: str, instruction: str) -> str:
        return [arguments for word, arguments in self.steps(target) if word == instruction][-1]

    def environment(self, target: str) -> dict[str, str]:
        words = [word for arguments in self._all(target, "ENV") for word in shlex.split(arguments)]
        return dict(word.split("=", 1) for word in words)

    def command(self, target: str) -> list[str]:
        """ENTRYPOINT and CMD, which have to be in the exec form."""
        return [*json.loads(self.last(target, "ENTRYPOINT")), *json.loads(self.last(target, "CMD"))]

    def health_check(self) -> list[str]:
        return json.loads(self.last("cpu", "HEALTHCHECK").partition("CMD ")[2])

    def _all(self, target: str, instruction: str) -> list[str]:
        return [arguments for word, arguments in self.steps(target) if word == instruction]


def context(root: Path = ROOT) -> list[Path]:
    """The files that .dockerignore lets through, relative to `root`; the last line that matches a path decides."""
    rules = [
        line.strip()
        for line in (root / ".dockerignore").read_text().splitlines()
        if line.strip() and not line.startswith("#")
    ]

    def kept(path: Path) -> bool:
        keep = True
        for rule in rules:
            pattern = rule.removeprefix("!")
            ways = (path, *path.parents[:-1])
            if any(
                fnmatch.fnmatchcase(way.name if pattern.startswith("**/") else str(way), pattern.removeprefix("**/"))
                for way in ways
            ):
                keep = rule.startswith("!")
        return keep

    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--", "."], cwd=root, check=True, capture_output=True, text=True
    )
    files = (Path(line) for line in listed.stdout.splitlines())
    return sorted(path for path in files if kept(path) and (root / path).is_file())


@dataclass(slots=True, kw_only=True)
class Build:
    """Directories of overlays by stage; `run` has a command run in one of them."""

    base: Path
    directory: Path
    environment: dict[str, str] = field(default_factory=dict)
    """For what RUN executes: how this machine reaches the package registries."""

    def upper(self, stage: str) -> Path:
        return self.directory / stage

    def make(self, file: Dockerfile, target: str) -> None:
        needed = {"build", *(stage.name for stage in file.lineage(target))}
        for stage in file.stages.values():
            if stage.name in needed:
                self._make(stage, file)

    def _make(self, stage: Stage, file: Dockerfile) -> None:
        upper = self.upper(stage.name)
        if stage.parent in file.stages:
            shutil.copytree(self.upper(stage.parent), upper, symlinks=True)
        upper.mkdir(exist_ok=True)
        folder = "/"
        for word, arguments in stage.steps:
            if word == "WORKDIR":
                folder = arguments
                if not os.path.lexists(upper / folder.lstrip("/")):
                    (upper / folder.lstrip("/")).mkdir(parents=True)
            elif word == "COPY":
                self._copy(upper, folder, shlex.split(arguments))
            elif word == "RUN":
                script = f"cd {folder} && {arguments}"
                subprocess.run(self.inside(stage.name, ["sh", "-ec", script], env=self.environment), check=True)

    def _copy(self, upper: Path, folder: str, words: list[str]) -> None:
        if words[0].startswith("--from="):
            (_, stage), source, to = words[0].split("="), words[1].lstrip("/"), words[2].lstrip("/")
            shutil.copytree(self.upper(stage) / source, upper / to, symlinks=True)
            return
        *sources, to = words
        for path in context():
            for source in map(Path, sources):
                if path == source or source in path.parents:
                    inner = path.relative_to(source) if path != source else Path(path.name)
                    place = upper / folder.lstrip("/") / to / inner
                    place.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(ROOT / path, place)

    def inside(
        self, stage: str, command: list[str], *, env: dict[str, str], volume: tuple[Path, str] | None = None
    ) -> list[str]:
        """A command line that runs `command` on the root of `stage`; with a `volume`, all else is read-only."""
        root, work = self.directory / f"{stage}.root", self.directory / f"{stage}.work"
        for place in (root, work):
            place.mkdir(exist_ok=True)
        words = {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"} | env
        steps = [
            f"mount -t overlay overlay -o lowerdir={self.base},upperdir={self.upper(stage)},workdir={work} {root}",
            f"mount -t proc proc {root}/proc",
            f"mount --rbind /dev {root}/dev",
        ]
        if volume is None:
            files = ("/etc/resolv.conf", "/etc/hosts", *filter(os.path.exists, ["/etc/ssl/certs"]))
            steps += [f"touch {root}{one}; mount --bind {one} {root}{one}" for one in files if os.path.isfile(one)]
            steps += [f"mount --bind {one} {root}{one}" for one in files if os.path.isdir(one)]
        else:
            here, there = volume
            steps += [
                f"mount --bind {here} {root}{there}",
                f"mount -t tmpfs tmpfs {root}/tmp",
                f"mount -o remount,bind,ro {root}",
            ]
        given = " ".join(shlex.quote(f"{name}={value}") for name, value in words.items())
        script = "\n".join(["set -e", *steps, f"exec chroot {root} env -i {given} {shlex.join(command)}"])
        # --pid: the command is process 1, as in a container.
        return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script]


def registries() -> dict[str, str]:
    """What pip and apt are told by this machine's environment."""
    return {
        name: value
        for name, value in os.environ.items()
        if re.match(r"(?i)pip_(cert|index_url|default_timeout)|https?_proxy|no_proxy", name)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--into", type=Path, required=True)
    given = parser.parse_args()
    build = Build(base=given.base.absolute(), directory=given.into.absolute(), environment=registries())
    build.make(Dockerfile.read(ROOT / "Dockerfile"), given.target)


if __name__ == "__main__":
    main()
