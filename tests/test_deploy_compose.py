"""deploy/compose.yaml: it is what Docker reads, and it fits the image, the configuration and what watches them."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose

from mediaserver import config

from .image import ROOT, Dockerfile

DEPLOY = ROOT / "deploy"
ADDRESS = {f"MEDIASERVER_{section}__ADVERTISE": "192.0.2.1" for section in ("SIP", "RTP")}


def services(name: str = "compose.yaml") -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / name).read_text())["services"]


@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml"])
def test_it_obeys_the_compose_specification(name: str) -> None:
    # What YAML merges is no key of Compose's.
    text = yaml.safe_dump(yaml.safe_load((DEPLOY / name).read_text()))
    assert "mediaserver" in PyCompose.from_yaml(text).service_names()
    with pytest.raises(ValueError, match="imag"):
        PyCompose.from_yaml(text.replace("image:", "imag:"))


@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml"])
def test_what_it_builds_is_a_target_of_the_dockerfile(name: str) -> None:
    build = services(name)["mediaserver"]["build"]
    assert build["target"] in Dockerfile.read(ROOT / "Dockerfile").stages
    assert (DEPLOY / build["context"]).resolve() == ROOT


def test_the_gpu_s_file_reserves_one() -> None:
    (device,) = services("compose.gpu.yaml")["mediaserver"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}


@pytest.mark.parametrize("name", list(services()))
def test_no_service_can_write_to_its_image_or_gain_rights(name: str) -> None:
    service = services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service.get("cap_add", []) == (["SYS_NICE"] if name.startswith("media") else [])
    assert service["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("name", list(services()))
def test_every_file_that_is_mounted_is_there_and_every_volume_is_declared(name: str) -> None:
    volumes = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["volumes"]
    for source, *_ in (mount.split(":") for mount in services()[name]["volumes"]):
        assert (DEPLOY / source).exists() if source.startswith("./") else source in volumes


def test_the_server_s_volume_is_that_of_the_image() -> None:
    image = Dockerfile.read(ROOT / "Dockerfile").last("cpu", "VOLUME")
    assert f"data:{image}" in services()["mediaserver"]["volumes"]


def test_the_server_is_given_longer_to_stop_than_calls_to_end() -> None:
    service = services()["mediaserver"]
    settings = config.load(DEPLOY / "mediaserver.toml", service["environment"])
    assert float(service["stop_grace_period"].removesuffix("s")) >= settings.sip.drain_s + 10
    assert settings.redis.url is not None
    assert settings.redis.url.get_secret_value() == "redis://127.0.0.1:6379/0"


def test_the_limits_are_enough_for_the_calls_and_for_the_rtp_threads() -> None:
    limits = services()["mediaserver"]["ulimits"]
    settings = tomllib.loads((DEPLOY / "mediaserver.toml").read_text())["sip"]
    assert limits["nofile"] >= 3 * settings["max_calls"] + settings["max_connections"] + 256
    assert limits["rtprio"] >= 10  # the priority that the plane asks for


def test_only_sip_and_rtp_can_be_reached_from_elsewhere() -> None:
    all_services = services()
    settings = config.load(DEPLOY / "mediaserver.toml", {})
    assert {service["network_mode"] for service in all_services.values()} == {"host"}
    assert settings.http.listen.host == "127.0.0.1"
    assert all_services["redis"]["command"][1:3] == ["--bind", "127.0.0.1"]
    assert "--web.listen-address=127.0.0.1:9090" in all_services["prometheus"]["command"]
    assert all_services["grafana"]["environment"]["GF_SERVER_HTTP_ADDR"] == "127.0.0.1"


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")
def test_redis_takes_its_command_line_and_keeps_to_512_mb(tmp_path: Path, unused_tcp_port: int) -> None:
    command = [str(tmp_path) if word == "/data" else word for word in services()["redis"]["command"]]
    ask = ["redis-cli", "-h", "127.0.0.1", "-p", str(unused_tcp_port)]
    with subprocess.Popen([*command, "--port", str(unused_tcp_port)], stdout=subprocess.DEVNULL) as redis:
        try:
            told = subprocess.run(
                [
                    "timeout",
                    "10",
                    "sh",
                    "-c",
                    f"until {' '.join(ask)} ping >&2; do sleep 0.05; done; "
                    f"{' '.join(ask)} config get 'maxmemory*'; {' '.join(ask)} config get save",
                ],
                check=True,
                capture_output=True,
                text=True,
            ).stdout.split("\n")
        finally:
            redis.terminate()
    values = dict(zip(told[::2], told[1::2], strict=False))
    assert (values["maxmemory"], values["maxmemory-policy"], values["save"]) == ("536870912", "allkeys-lru", "60 1")


def test_the_cluster_is_asked_for_and_its_servers_share_nothing_but_redis() -> None:
    cluster = {name: service for name, service in services().items() if service.get("profiles") == ["cluster"]}
    assert set(cluster) == {"media1", "media2", "kamailio"}
    alone = config.load(DEPLOY / "mediaserver.toml", {})
    all_settings = [
        alone,
        *(config.load(None, cluster[name]["environment"] | ADDRESS) for name in ("media1", "media2")),
    ]
    ports = [port for settings in all_settings for port in settings.rtp.ports]
    assert len(ports) == len(set(ports))
    assert len({settings.sip.listen for settings in all_settings}) == 3
    assert len({settings.http.listen for settings in all_settings}) == 3
    for name, settings in zip(("media1", "media2"), all_settings[1:], strict=True):
        environment = cluster[name]["environment"]
        assert environment["HEALTH_URL"] == f"http://{settings.http.listen}/health"
        assert settings.redis.url is not None
        listed = (DEPLOY / "kamailio" / "compose.list").read_text()
        assert f"1 sip:127.0.0.1:{settings.sip.listen[0].port} 0 0 duid={name}" in listed


@pytest.mark.skipif(shutil.which("kamailio") is None, reason="kamailio is not installed")
def test_kamailio_takes_its_command_line(unused_udp_port: int) -> None:
    entrypoint = [
        re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", word).replace("/etc/kamailio", str(DEPLOY / "kamailio"))
        for word in services()["kamailio"]["entrypoint"]
    ]
    command = [word.replace(":5080", f":{unused_udp_port}") for word in entrypoint if word not in ("-DD", "-E")]
    checked = subprocess.run([*command, "-c"], capture_output=True, check=False, text=True)
    assert checked.returncode == 0, checked.stderr
