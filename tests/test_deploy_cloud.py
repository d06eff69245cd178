"""deploy/aws and deploy/kubernetes: judged by the tools for it, and true to what the server is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import boto3
import kubernetes_validate
import pytest
import yaml
from cfnlint.api import lint
from moto import mock_aws

from mediaserver import config
from mediaserver.metrics import Metrics

from .image import ROOT, Dockerfile

DEPLOY = ROOT / "deploy"
TEMPLATE = (DEPLOY / "aws" / "cloudformation.yaml").read_text()
# moto looks defaults up, but does not have AWS's own parameters, and takes every listener for one of HTTP.
MOTO = re.sub(r"Default: /aws/service/\S+", "Default: /images/gpu", TEMPLATE).replace(
    "LoadBalancerArn: !Ref Sip\n      Protocol: TCP_UDP", "LoadBalancerArn: !Ref Sip\n      Protocol: HTTP"
)
ALARMS = {"HighLatency", "HighErrorRate", "HighGPUMemory", "HealthCheckFailed"}
KUBERNETES = "1.31"


def test_cfn_lint_has_nothing_to_say() -> None:
    assert [str(match) for match in lint(TEMPLATE, regions=["eu-west-1", "us-east-1"])] == []
    assert lint(TEMPLATE.replace("Type: StepScaling", "Type: NoScaling")), "and it would"


# moto makes no scaling policies and no alarms: what they say is read from the template.
moto = pytest.mark.filterwarnings("ignore:Tried to parse AWS:UserWarning")


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The resources of the stack, created against moto: what AWS would make of each, by its logical id."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        ec2 = boto3.client("ec2", "eu-west-1")
        vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
        subnets = [subnet["SubnetId"] for subnet in ec2.describe_subnets()["Subnets"][:2]]
        image = ec2.describe_images()["Images"][0]["ImageId"]
        boto3.client("ssm", "eu-west-1").put_parameter(Name="/images/gpu", Value=image, Type="String")
        asked = boto3.client("acm", "eu-west-1").request_certificate(DomainName="api.example.com")
        certificate = asked["CertificateArn"]
        given = {
            "VpcId": vpc,
            "SubnetIds": ",".join(subnets),
            "ImageId": "/images/gpu",
            "Image": "123456789012.dkr.ecr.eu-west-1.amazonaws.com/mediaserver:gpu",
            "CallersCidr": "203.0.113.0/24",
            "CertificateArn": certificate,
            "TokensSecretArn": "arn:aws:secretsmanager:eu-west-1:123456789012:secret:tokens",
        }
        cloud = boto3.client("cloudformation", "eu-west-1")
        cloud.create_stack(
            StackName="telephony",
            TemplateBody=MOTO,
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in given.items()],
            Capabilities=["CAPABILITY_IAM"],
        )
        (created,) = cloud.describe_stacks(StackName="telephony")["Stacks"]
        assert created["StackStatus"] == "CREATE_COMPLETE"
        yield {
            resource["LogicalResourceId"]: resource["PhysicalResourceId"]
            for resource in cloud.describe_stack_resources(StackName="telephony")["StackResources"]
            if "LogicalResourceId" in resource
        }


@moto
def test_one_to_four_servers_grow_within_a_minute_and_shrink_within_five(stack: dict[str, Any]) -> None:
    scaling = boto3.client("autoscaling", "eu-west-1")
    (group,) = scaling.describe_auto_scaling_groups()["AutoScalingGroups"]
    assert (group["MinSize"], group["MaxSize"], len(group["Instances"])) == (1, 4, 1)
    assert group["HealthCheckType"] == "ELB"
    (machine,) = group["Instances"]
    assert machine["InstanceType"] == "g5.xlarge"
    resources = _resources()
    cpu, gpu, low = (resources[name] for name in ("CpuHigh", "GpuHigh", "BothLow"))
    assert (cpu["Threshold"], cpu["Period"] * cpu["EvaluationPeriods"], cpu["AlarmActions"]) == (70, 60, ["ScaleUp"])
    assert (gpu["Threshold"], gpu["Period"] * gpu["EvaluationPeriods"], gpu["AlarmActions"]) == (80, 60, ["ScaleUp"])
    assert (low["EvaluationPeriods"] * 60, low["AlarmActions"]) == (300, ["ScaleDown"])
    assert resources["ScaleDown"]["Cooldown"] == "300"
    assert resources["ScaleUp"]["EstimatedInstanceWarmup"] == 60
    assert resources.keys() >= ALARMS


@moto
def test_sip_goes_by_a_network_load_balancer_and_http_by_an_application_load_balancer(stack: dict[str, Any]) -> None:
    balancing = boto3.client("elbv2", "eu-west-1")
    kinds = {one["LoadBalancerArn"]: one["Type"] for one in balancing.describe_load_balancers()["LoadBalancers"]}
    assert kinds.keys() == {stack["Sip"], stack["Web"]}
    resources = _resources()
    assert (resources["Sip"]["Type"], resources["Web"]["Type"]) == ("network", "application")
    assert resources["SipListener"]["Protocol"] == "TCP_UDP"
    targets = {one["TargetGroupArn"]: one for one in balancing.describe_target_groups()["TargetGroups"]}
    web = targets[stack["WebTargets"]]
    assert (web["HealthCheckPath"], web["HealthCheckIntervalSeconds"]) == ("/health", 30)
    assert {"Key": "idle_timeout.timeout_seconds", "Value": "300"} in resources["Web"]["LoadBalancerAttributes"]


class _Loader(yaml.SafeLoader):
    """Reads the short forms of intrinsic functions as their arguments."""


_Loader.add_multi_constructor(
    "!",
    lambda loader, suffix, node: (
        loader.construct_scalar(node)
        if isinstance(node, yaml.ScalarNode)
        else loader.construct_sequence(node, deep=True)
    ),
)


def _resources() -> dict[str, Any]:
    document = yaml.load(TEMPLATE, _Loader)
    return {
        name: resource["Properties"] for name, resource in document["Resources"].items() if "Properties" in resource
    }


def test_the_servers_are_started_as_the_image_and_the_configuration_want_it() -> None:
    script = _resources()["Template"]["LaunchTemplateData"]["UserData"]["Fn::Base64"]
    user = Dockerfile.read(ROOT / "Dockerfile").last("cpu", "USER").partition(":")[0]
    assert f"chown {user}:{user} /var/lib/mediaserver" in script
    environment = dict(re.findall(r"--env (MEDIASERVER_\w+)=('[^']+'|\"[^\"]+\"|\S+)", script))
    values = {
        name: value.strip("'\"").replace("$public", "198.51.100.1").replace("${CallersCidr}", "203.0.113.0/24")
        for name, value in environment.items()
    }
    tokens = values.pop("MEDIASERVER_HTTP__TOKEN_FILE")
    assert "${TokensSecretArn}" in script
    assert tokens in script
    settings = config.load(None, values | {"MEDIASERVER_HTTP__ALLOW_UNAUTHENTICATED": "true"})
    assert settings.sip.advertise == "198.51.100.1"
    first, last = settings.rtp.ports[0], settings.rtp.ports[-1]
    assert f"FromPort: {first}, ToPort: {last}" in TEMPLATE
    stop_s = int(re.findall(r"--stop-timeout (\d+)", script)[0])
    assert stop_s > settings.sip.drain_s
    (hook,) = _resources()["Servers"]["LifecycleHookSpecificationList"]
    assert hook["LifecycleTransition"] == "autoscaling:EC2_INSTANCE_TERMINATING"
    assert hook["HeartbeatTimeout"] > stop_s
    assert f"--lifecycle-hook-name {hook['LifecycleHookName']} " in script


def test_every_alarm_has_its_entry_in_the_runbook() -> None:
    runbook = (ROOT / "docs" / "RUNBOOK.md").read_text()
    anchors = {heading.lower() for heading in re.findall(r"^### (\w+)$", runbook, re.MULTILINE)}
    for name in ALARMS:
        anchor = re.match(r"docs/RUNBOOK\.md#(\w+)\.", _resources()[name]["AlarmDescription"])
        assert anchor is not None
        assert anchor[1] in anchors


# --- Kubernetes


def _documents(name: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all((DEPLOY / "kubernetes" / name).read_text()) if document]


@pytest.mark.parametrize("document", _documents("mediaserver.yaml"), ids=lambda document: document["kind"])
def test_kubernetes_takes_it(document: dict[str, Any]) -> None:
    kubernetes_validate.validate(document, KUBERNETES, strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document | {"spek": {}}, KUBERNETES, strict=True)


def _pod() -> dict[str, Any]:
    (deployment,) = (one for one in _documents("mediaserver.yaml") if one["kind"] == "Deployment")
    return dict(deployment["spec"]["template"]["spec"])


def test_a_pod_has_the_network_of_its_node_and_time_to_drain() -> None:
    pod = _pod()
    (container,) = pod["containers"]
    environment = {
        one["name"]: one["value"].replace("$(HOST)", "10.0.0.9") for one in container["env"] if "value" in one
    }
    del environment["MEDIASERVER_HTTP__TOKEN_FILE"]
    settings = config.load(None, environment | {"MEDIASERVER_HTTP__ALLOW_UNAUTHENTICATED": "true"})
    assert pod["hostNetwork"] is True
    assert (
        pod["terminationGracePeriodSeconds"]
        > settings.sip.drain_s + container["lifecycle"]["preStop"]["sleep"]["seconds"]
    )
    assert (settings.engine.name, settings.engine.fallback) == ("remote", "espeak")
    assert container["readinessProbe"]["httpGet"]["port"] == settings.http.listen.port
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["SYS_NICE"]}
    assert (
        str(pod["securityContext"]["runAsUser"])
        == Dockerfile.read(ROOT / "Dockerfile").last("cpu", "USER").partition(":")[0]
    )


def test_what_the_autoscaler_goes_by_is_a_metric_of_the_server() -> None:
    (scaler,) = (one for one in _documents("mediaserver.yaml") if one["kind"] == "HorizontalPodAutoscaler")
    name = scaler["spec"]["metrics"][0]["pods"]["metric"]["name"]
    (rule,) = _documents("prometheus-adapter.yaml")[0]["rules"]["custom"]
    assert rule["seriesQuery"].startswith(name + "{")
    assert f"\n{name} " in Metrics().exposition()[0].decode()


def test_ray_s_service_runs_the_application_of_the_repository() -> None:
    (service,) = _documents("ray.yaml")
    (application,) = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"]
    (ours,) = yaml.safe_load((DEPLOY / "ray" / "serve.yaml").read_text())["applications"]
    assert application["import_path"] == ours["import_path"]
    assert application["deployments"][0]["name"] == ours["deployments"][0]["name"]
    urls = json.loads(next(one["value"] for one in _pod()["containers"][0]["env"] if one["name"].endswith("URLS")))
    assert urls == [f"http://{service['metadata']['name']}-serve-svc.telephony:8000"]
    groups = [
        service["spec"]["rayClusterConfig"]["headGroupSpec"],
        *service["spec"]["rayClusterConfig"]["workerGroupSpecs"],
    ]
    for group in groups:
        template = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": group["template"]["spec"]}
        kubernetes_validate.validate(template, KUBERNETES, strict=True)
