"""The manifests for Kubernetes match the published schemas and the service."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import kubernetes_validate
import pytest
import yaml
from cloudcoil.models.prometheus_operator.v1 import ServiceMonitor

from service.config import Settings
from tests.deploy.board import exposed_names
from tests.deploy.prometheus import MISSING, PROMTOOL
from tests.deploy.test_files import DOCKERFILE, SERVICES, longest_stop_s
from tests.support.service import ROOT, Service

FOLDER = ROOT / "deploy" / "kubernetes"
VERSIONS = ("1.32", kubernetes_validate.latest_version())
Manifest = dict[str, Any]


def read(path: Path) -> list[Manifest]:
    return list(yaml.safe_load_all(path.read_text()))


def base() -> list[Manifest]:
    (kustomization,) = read(FOLDER / "base" / "kustomization.yaml")
    assert kustomization.keys() == {"apiVersion", "kind", "resources"}  # so the files are what is applied
    return [each for name in kustomization["resources"] for each in read(FOLDER / "base" / name)]


def gpu() -> list[Manifest]:
    if not (kubectl := shutil.which("kubectl")):
        pytest.skip("no kubectl on this machine (its kustomize builds the overlay)")
    built = subprocess.run([kubectl, "kustomize", FOLDER / "gpu"], capture_output=True, text=True, check=True)
    return list(yaml.safe_load_all(built.stdout))


@pytest.fixture(params=[base, gpu])
def manifests(request: pytest.FixtureRequest) -> list[Manifest]:
    made: list[Manifest] = request.param()
    return made


def of_kind(kind: str, manifests: list[Manifest]) -> list[Manifest]:
    return [each for each in manifests if each["kind"] == kind]


def pod_of(manifests: list[Manifest]) -> Manifest:
    (deployment,) = of_kind("Deployment", manifests)
    pod: Manifest = deployment["spec"]["template"]["spec"]
    return pod


def container_of(manifests: list[Manifest]) -> Manifest:
    (container,) = pod_of(manifests)["containers"]
    found: Manifest = container
    return found


def test_what_is_deployed(manifests: list[Manifest]) -> None:
    assert sorted((each["kind"], each["metadata"]["name"]) for each in manifests) == [
        ("Deployment", "pose"),
        ("HorizontalPodAutoscaler", "pose"),
        ("PodDisruptionBudget", "pose"),
        ("Service", "pose"),
        ("Service", "pose-grpc"),
        ("ServiceMonitor", "pose"),
    ]


@pytest.mark.parametrize("version", VERSIONS)
def test_manifests_follow_the_schemas_of_kubernetes(manifests: list[Manifest], version: str) -> None:
    for manifest in manifests:
        if manifest["kind"] != "ServiceMonitor":
            kubernetes_validate.validate(manifest, version, strict=True)


def test_an_invalid_manifest_is_rejected() -> None:
    (deployment,) = of_kind("Deployment", base())
    deployment["spec"]["template"]["spec"]["containers"][0]["livenessProbe"]["httpget"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, VERSIONS[0], strict=True)


def test_the_monitor_follows_the_schema_of_the_operator(manifests: list[Manifest]) -> None:
    (monitor,) = of_kind("ServiceMonitor", manifests)
    model = ServiceMonitor.model_validate(monitor)
    # what the schema does not know is not in the model
    assert model.model_dump(mode="json", by_alias=True, exclude_none=True) == monitor


def test_selectors_match_their_pods(manifests: list[Manifest]) -> None:
    (deployment,) = of_kind("Deployment", manifests)
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    services = of_kind("Service", manifests)
    selectors = [each["spec"]["selector"] for each in services]
    (disruption,) = of_kind("PodDisruptionBudget", manifests)
    selectors += [each["spec"]["selector"]["matchLabels"] for each in (deployment, disruption)]
    selectors += [
        each["labelSelector"]["matchLabels"] for each in pod_of(manifests)["topologySpreadConstraints"]
    ]
    assert all(selector == labels for selector in selectors)
    (monitor,) = of_kind("ServiceMonitor", manifests)
    assert all(
        monitor["spec"]["selector"]["matchLabels"].items() <= each["metadata"]["labels"].items()
        for each in services
    )
    (autoscaler,) = of_kind("HorizontalPodAutoscaler", manifests)
    assert autoscaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]


def test_ports_are_those_of_the_image(manifests: list[Manifest]) -> None:
    ports = {each["name"]: each["containerPort"] for each in container_of(manifests)["ports"]}
    assert f"POSE_HTTP_PORT={ports['http']}" in DOCKERFILE
    assert f"POSE_GRPC_PORT={ports['grpc']}" in DOCKERFILE
    for service in of_kind("Service", manifests):
        for port in service["spec"]["ports"]:
            assert port["targetPort"] == port["name"] and port["port"] == ports[port["name"]]
    (monitor,) = of_kind("ServiceMonitor", manifests)
    assert [each["port"] for each in monitor["spec"]["endpoints"]] == ["http"]


def test_the_pod_has_the_rights_of_the_compose_container(manifests: list[Manifest]) -> None:
    pod, container, compose = pod_of(manifests), container_of(manifests), SERVICES["pose"]
    assert f"USER {pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}" in DOCKERFILE
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    (volume,) = pod["volumes"]
    assert compose["tmpfs"] == [f"/tmp:size={volume['emptyDir']['sizeLimit'].removesuffix('Mi')}m"]


def test_requests_of_the_pod_equal_its_limits(manifests: list[Manifest]) -> None:
    resources = container_of(manifests)["resources"]
    assert all(resources["limits"][name] == value for name, value in resources["requests"].items())
    assert resources["requests"].keys() == {"cpu", "memory"}


def test_the_pod_is_given_time_to_drain(manifests: list[Manifest]) -> None:
    pause = container_of(manifests)["lifecycle"]["preStop"]["sleep"]["seconds"]
    grace = pod_of(manifests)["terminationGracePeriodSeconds"]
    assert grace >= pause + longest_stop_s()


def test_variables_of_the_cluster_do_not_reach_the_settings(manifests: list[Manifest]) -> None:
    assert pod_of(manifests)["enableServiceLinks"] is False
    named = {each["name"] for each in container_of(manifests).get("env", [])}
    assert {name.removeprefix("POSE_").lower() for name in named} <= Settings.model_fields.keys()


def test_probes_and_the_monitor_ask_what_the_service_answers(service: Service) -> None:
    container = container_of(base())
    probes = [container[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")]
    (monitor,) = of_kind("ServiceMonitor", base())
    paths = [each["path"] for each in (*probes, *monitor["spec"]["endpoints"])]
    assert all(probe["port"] == "http" for probe in probes)
    assert [httpx.get(service.url + path).status_code for path in paths] == [200] * 4


def adapter_rule() -> Manifest:
    (values,) = read(FOLDER / "prometheus-adapter.yaml")
    (rule,) = values["rules"]["custom"]
    found: Manifest = rule
    return found


def test_the_autoscaler_asks_for_the_metric_that_the_adapter_makes(manifests: list[Manifest]) -> None:
    (autoscaler,) = of_kind("HorizontalPodAutoscaler", manifests)
    (metric,) = autoscaler["spec"]["metrics"]
    rule = adapter_rule()
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    series = rule["seriesQuery"].partition("{")[0]
    assert series in exposed_names()
    assert re.fullmatch(rule["name"]["matches"], series)


def test_the_query_of_the_adapter_is_valid(tmp_path: Path) -> None:
    if PROMTOOL is None:
        pytest.skip(MISSING.format("promtool"))
    rule = adapter_rule()
    filled = {"<<.Series>>": "pose_queue_depth", "<<.LabelMatchers>>": 'pod=~"a|b"', "<<.GroupBy>>": "pod"}
    query = rule["metricsQuery"]
    for name, value in filled.items():
        assert name in query
        query = query.replace(name, value)
    rules = [{"record": "a:b", "expr": each} for each in (query, rule["seriesQuery"])]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "adapter", "rules": rules}]}))
    subprocess.run([PROMTOOL, "check", "rules", file], check=True, capture_output=True)
