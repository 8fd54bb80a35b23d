"""Rendered objects hold against the clusters' schemas, say what the spec says, and carry no secret."""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from jobs.check import load_job, load_text
from jobs.errors import JobError, Refused
from jobs.filling import Surroundings
from jobs.kube import LONGEST_NAME, dump, kube_name
from jobs.render import render
from jobs.spec import SegmentSpec
from jobs.yaml_source import parse_value
from tests.kube import refused

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
RENDERED = Path(__file__).with_name("rendered")
BASE = """\
kind: segment
name: beds
input: {uri: "s3://photos/x"}
output: {uri: "s3://masks/x"}
"""

Json = dict[str, Any]


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_REGION", "FARM_BUCKET"):
        monkeypatch.delenv(name, raising=False)


def of(tmp_path: Path, more: str = "", target: str = "kuberay", text: str = BASE) -> dict[str, Json]:
    spec = tmp_path / "spec.yaml"
    spec.write_text(text + more)
    found = render(spec, (), target).manifests  # type: ignore[arg-type]
    for manifest in found:
        assert refused(manifest) == []
    return {manifest["kind"]: manifest for manifest in found}


def cluster(found: dict[str, Json]) -> Json:
    spec: Json = found["RayJob"]["spec"]["rayClusterSpec"]
    return spec


def worker(found: dict[str, Json]) -> Json:
    group: Json = cluster(found)["workerGroupSpecs"][0]
    return group


@pytest.mark.parametrize("target", ["kuberay", "cronjob"])
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_what_examples_become_is_what_clusters_take(path: Path, target: Any) -> None:
    scheduled = load_job(path).schedule is not None
    if target == "cronjob" and not scheduled:
        with pytest.raises(Refused, match="schedule: the spec has none"):
            render(path, (), target)
        return
    rendered = render(path, (), target)
    assert list(yaml.safe_load_all(rendered.text)) == rendered.manifests
    for manifest in rendered.manifests:
        assert refused(manifest) == [], manifest["kind"]
    kinds = [manifest["kind"] for manifest in rendered.manifests]
    if target == "cronjob":
        assert kinds[-1] == "CronJob"
        rayjob = json.loads(rendered.manifests[2]["data"]["rayjob.json"])
        assert refused(rayjob) == []
    else:
        assert kinds[-1] == ("RayCronJob" if scheduled else "RayJob")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_cluster_reads_the_job_that_was_rendered(path: Path) -> None:
    spec = load_job(path, (), Surroundings(keep_date=True))
    text = render(path).manifests[0]["data"]["spec.yaml"]
    again = load_text(text, "spec.yaml", (), type(spec), Surroundings(keep_date=True))
    ours = ("extends", "kubernetes", "retries")
    assert again.model_dump(exclude=set(ours)) == spec.model_dump(exclude=set(ours))


@pytest.mark.parametrize(
    ("example", "target"),
    [("nightly", "kuberay"), ("nightly", "cronjob"), ("s3", "kuberay"), ("train-kernels", "kuberay")],
)
def test_what_is_emitted_is_pinned(example: str, target: Any) -> None:
    text = render(ROOT / "examples" / f"{example}.yaml", (), target).text
    text = text.replace(version("ray"), "RAY").replace(f"condinst:{version('condinst')}", "condinst:VERSION")
    # The name of a map is a digest of what is in it.
    text = re.sub(r"-(spec|rayjob)-[0-9a-f]{10}\b", r"-\1-DIGEST", text)
    golden = RENDERED / f"{example}.{target}.yaml"
    assert text == golden.read_text(), f"if it is meant, write it to {golden}"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec.rayClusterSpec.headGroupSpec.template.spec.containers.0.comand", ["x"]),
        ("spec.rayClusterSpec.workerGroupSpecs.0.minReplica", 1),
        ("spec.rayClusterSpec.workerGroupSpecs.0.minReplicas", "1"),
        ("spec.rayClusterSpec.workerGroupSpecs.0.maxReplicas", 2**31),
        ("spec.rayClusterSpec.authOptions.mode", "tokn"),
        ("spec.rayClusterSpec.headGroupSpec.template.spec.containers.0.resources.limits.cpu", [1]),
        ("spec.entrypont", "x"),
        ("metadata.labels.condinst/job", "two words"),
    ],
)
def test_the_check_sees_what_a_cluster_would_refuse(tmp_path: Path, path: str, value: object) -> None:
    manifest = of(tmp_path)["RayJob"]
    here: Any = manifest
    *above, last = path.split(".")
    for part in above:
        here = here[int(part) if part.isdigit() else part]
    here[last] = value
    assert refused(manifest)


def test_the_check_sees_unknown_fields_of_kubernetes_own_kinds(tmp_path: Path) -> None:
    budget = of(tmp_path)["PodDisruptionBudget"]
    budget["spec"]["minAvailible"] = 1
    assert refused(budget)


def test_a_change_of_the_spec_changes_the_maps_name(tmp_path: Path) -> None:
    before, after = of(tmp_path), of(tmp_path, "batch: {images: 2}\n")
    assert before["ConfigMap"]["metadata"]["name"] != after["ConfigMap"]["metadata"]["name"]
    mounted = worker(after)["template"]["spec"]["volumes"][2]["configMap"]["name"]
    assert mounted == after["ConfigMap"]["metadata"]["name"]


@pytest.mark.parametrize(
    ("workers", "pods", "cpus", "gpus", "memory"),
    [
        ("{count: 5, gpus: 0.5, cpus: 3, memory: 2Gi}", (3, 3, 3), "6", "1", "5120Mi"),
        ("{count: 2, gpus: 1, cpus: 8}", (2, 2, 2), "8", "1", "9216Mi"),
        ("{count: 2, gpus: 0.7}", (2, 2, 2), "1", "1", "9216Mi"),
        ("{min: 3, max: 10, gpus: 0.25, cpus: 1}", (1, 1, 3), "4", "1", "33792Mi"),
        ("{min: 3, max: 10, memory: 1G}", (3, 3, 10), "1", None, "1978Mi"),
    ],
)
def test_pods_hold_whole_gpus(
    tmp_path: Path, workers: str, pods: tuple[int, int, int], cpus: str, gpus: str | None, memory: str
) -> None:
    found = of(tmp_path, f"workers: {workers}\n")
    group = worker(found)
    assert (group["replicas"], group["minReplicas"], group["maxReplicas"]) == pods
    resources = group["template"]["spec"]["containers"][0]["resources"]
    assert resources["requests"] == resources["limits"]
    assert (resources["limits"]["cpu"], resources["limits"].get("nvidia.com/gpu")) == (cpus, gpus)
    assert resources["limits"]["memory"] == memory
    assert group["rayStartParams"]["num-cpus"] == cpus
    # What Ray hands out leaves a GiB of the pod for Ray.
    assert int(group["rayStartParams"]["memory"]) <= (int(memory.removesuffix("Mi")) - 1024) * 2**20
    assert cluster(found)["enableInTreeAutoscaling"] is (pods[1] < pods[2])


def test_nothing_runs_as_root_or_is_public(tmp_path: Path) -> None:
    found = of(tmp_path, "workers: {min: 1, max: 2}\n")
    spec = found["RayJob"]["spec"]
    assert cluster(found)["authOptions"] == {"mode": "token"}
    assert cluster(found)["headGroupSpec"]["serviceType"] == "ClusterIP"
    templates = [
        spec["submitterPodTemplate"],
        cluster(found)["headGroupSpec"]["template"],
        worker(found)["template"],
    ]
    for template in templates:
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        for container in pod["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"]
            assert not container["securityContext"]["allowPrivilegeEscalation"]
            assert container["resources"]["requests"]
    # Only where an autoscaler runs can a pod speak to Kubernetes.
    assert [t["spec"]["automountServiceAccountToken"] for t in templates] == [False, True, False]


def test_spot_is_for_workers_alone(tmp_path: Path) -> None:
    found = of(tmp_path, "workers: {spot: true}\nkubernetes: {tolerations: [dedicated]}\n")
    keys = {toleration["key"] for toleration in worker(found)["template"]["spec"]["tolerations"]}
    assert keys == {"cloud.google.com/gke-spot", "kubernetes.azure.com/scalesetpriority", "dedicated"}
    head = cluster(found)["headGroupSpec"]["template"]["spec"]
    assert "tolerations" not in head
    assert "affinity" not in head


def test_secrets_are_named_never_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY_OF_FARM", "hunter2")
    found = of(tmp_path, "secrets: [KEY_OF_FARM]\nkubernetes: {secret: farm}\n")
    assert "hunter2" not in json.dumps(found)
    env = worker(found)["template"]["spec"]["containers"][0]["env"]
    assert env[-1] == {
        "name": "KEY_OF_FARM",
        "valueFrom": {"secretKeyRef": {"name": "farm", "key": "KEY_OF_FARM"}},
    }
    # The pod that only submits needs none.
    assert "KEY_OF_FARM" not in json.dumps(found["RayJob"]["spec"]["submitterPodTemplate"])


def test_variables_are_filled_in_now_and_the_date_of_a_job_started_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLACE", "here")
    text = BASE.replace("s3://masks/x", "s3://masks/${PLACE}/{{ date }}")
    found = of(tmp_path, text=text)
    assert "s3://masks/here/{{ date }}" in found["ConfigMap"]["data"]["spec.yaml"]
    for group in (cluster(found)["headGroupSpec"], worker(found)):
        day = group["template"]["spec"]["containers"][0]["env"][-1]
        assert day["name"] == "CONDINST_DATE"
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", day["value"])


def test_what_stands_for_itself_does_so_in_the_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ODD", "${HOME}")
    text = BASE.replace("photos/x", "photos/$${x}/${ODD}")
    found = of(tmp_path, 'env: {A: "$${x}"}\n', text=text)
    again = load_text(found["ConfigMap"]["data"]["spec.yaml"], "spec.yaml")
    assert again.input[0].uri == "s3://photos/${x}/${HOME}"
    assert again.env == {"A": "${x}"}
    # Kubernetes reads $$ as $.
    assert {"name": "A", "value": "$${x}"} in worker(found)["template"]["spec"]["containers"][0]["env"]


def test_a_variable_that_is_not_set_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"\$\{NOWHERE\} is set neither"):
        of(tmp_path, text=BASE.replace("photos", "${NOWHERE}"))


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ('schedule: {cron: "@daily"}\n', "has no limit"),
        ('schedule: {cron: "@hourly"}\ntimeout: 31m\n', "may take 1.0 h, .* fires after 1.0 h"),
        ('schedule: {cron: "0 */2 * * *", timezone: Europe/Tallinn}\ntimeout: 45m\n', "fires after 1.0 h"),
        ('schedule: {cron: "0 0 * * *"}\ntimeout: 12h\nretries: 1\n', "may take 25.0 h"),
    ],
)
def test_no_ray_cron_job_that_could_overlap(tmp_path: Path, more: str, told: str) -> None:
    with pytest.raises(Refused, match=told):
        of(tmp_path, more)
    overlap = of(tmp_path, more, "cronjob")["CronJob"]["spec"]
    assert overlap["concurrencyPolicy"] == "Forbid"


def test_a_retry_of_a_ray_cron_job_could_be_of_another_day(tmp_path: Path) -> None:
    text = BASE.replace("s3://masks/x", "s3://masks/{{ date }}")
    more = 'schedule: {cron: "@daily"}\ntimeout: 1h\nretries: 2\n'
    with pytest.raises(Refused, match="retries: a RayCronJob does not tell"):
        of(tmp_path, more, text=text)
    assert of(tmp_path, more)["RayCronJob"]["spec"]["jobTemplate"]["backoffLimit"] == 2
    assert of(tmp_path, more, "cronjob", text)["CronJob"]


def test_the_schedule_is_as_the_spec_says(tmp_path: Path) -> None:
    when = 'cron: "0 6 * * mon-fri", timezone: Asia/Tokyo, suspend: true, overlap: OVERLAP'
    more = f"schedule: {{{when}}}\ntimeout: 2h\n"
    found = of(tmp_path, more.replace("OVERLAP", "skip"))["RayCronJob"]["spec"]
    assert (found["schedule"], found["timeZone"], found["suspend"]) == (
        "0 6 * * 1,2,3,4,5",
        "Asia/Tokyo",
        True,
    )
    assert found["jobTemplate"]["activeDeadlineSeconds"] == 2 * 3600 + 1800
    skip = of(tmp_path, more.replace("OVERLAP", "skip"), "cronjob")["CronJob"]["spec"]
    queue = of(tmp_path, more.replace("OVERLAP", "queue"), "cronjob")["CronJob"]["spec"]
    assert skip.pop("startingDeadlineSeconds") == 300
    assert (skip["schedule"], skip["timeZone"], skip["suspend"]) == ("0 6 * * 1,2,3,4,5", "Asia/Tokyo", True)
    assert {**skip, "jobTemplate": None} == {**queue, "jobTemplate": None}


def test_a_type_of_gpu_needs_its_nodes_label(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="accelerator: which nodes have a GPU L4"):
        of(tmp_path, "workers: {gpus: 1, accelerator: L4}\n")
    found = of(tmp_path, "workers: {gpus: 1, accelerator: L4, node_selector: {gpu: l4}}\n")
    assert worker(found)["template"]["spec"]["nodeSelector"] == {"gpu": "l4"}


def test_training_runs_where_its_gpu_is(tmp_path: Path) -> None:
    text = (ROOT / "examples" / "train-kernels.yaml").read_text()
    found = of(tmp_path, "device: cuda\nthreads: 4\nresources: {memory: 8Gi}\n", text=text)
    spec = found["RayJob"]["spec"]
    assert spec["entrypoint"] == "condinst train /etc/condinst/spec.yaml"
    assert (spec["entrypointNumCpus"], spec["entrypointNumGpus"]) == (4, 1)
    assert cluster(found)["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    limits = worker(found)["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits == {"cpu": "4", "memory": "9216Mi", "nvidia.com/gpu": "1"}


def test_training_with_workers_has_a_pod_each(tmp_path: Path) -> None:
    text = (ROOT / "examples" / "train-kernels.yaml").read_text()
    more = "device: cuda\nworkers: {count: 4, cpus: 2, gpus: 1}\nresources: {memory: 8Gi, spot: true}\n"
    found = of(tmp_path, more, text=text)
    assert "entrypointNumGpus" not in found["RayJob"]["spec"]
    assert cluster(found)["headGroupSpec"]["rayStartParams"]["num-cpus"] == "1"
    assert worker(found)["replicas"] == 4
    limits = worker(found)["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits == {"cpu": "2", "memory": "9216Mi", "nvidia.com/gpu": "1"}
    assert worker(found)["template"]["spec"]["affinity"]


def test_paths_on_disk_are_told_of(tmp_path: Path) -> None:
    text = "kind: segment\nname: a\ninput: {uri: s3://in, area: fields.geojson}\noutput: {uri: s3://out}\n"
    more = "tiling: {size: 512, overlap: 64}\nenv: {run: fast}\n"
    (tmp_path / "area.yaml").write_text(text + more)
    assert "fields.geojson is a path" in render(tmp_path / "area.yaml").notes[0]
    assert len(render(tmp_path / "area.yaml").notes) == 1
    notes = render(ROOT / "examples" / "mushrooms.yaml").notes
    assert [note.split(" is a path")[0] for note in notes] == [
        "../shared/data/mushroom-beds/images",
        "work/mushrooms",
    ]
    assert render(ROOT / "examples" / "s3.yaml").notes == []


names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", fullmatch=True)


@given(names, names)
def test_any_name_becomes_one_of_kubernetes_and_stays_its_own(one: str, other: str) -> None:
    assert len(kube_name(one)) <= LONGEST_NAME
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", kube_name(one))
    assert (kube_name(one) == kube_name(other)) == (one == other)


@given(
    st.text(
        alphabet=st.characters(codec="utf-8", exclude_categories=("Cs", "Cc"), exclude_characters="\ufeff")
    )
)
def test_text_stays_text_for_every_reader(text: str) -> None:
    written = dump([{"value": text}])
    assert yaml.safe_load(written) == {"value": text}
    assert parse_value(written.removeprefix("---\n"), "x").value == {"value": text}


@pytest.mark.parametrize(
    "text", ["1e3", "0o7", "no", "1_000", "null", "~", "", "0x1F", "2026-11-28", "1:30", "=", "<<"]
)
def test_text_that_looks_like_something_else(text: str) -> None:
    written = dump([{"value": text}])
    assert re.search(r"value: (['\"])", written)


def test_specs_of_any_sort_are_taken(tmp_path: Path) -> None:
    loaded = load_text(BASE, "x")
    assert isinstance(loaded, SegmentSpec)
    assert set(of(tmp_path)) == {"ConfigMap", "PodDisruptionBudget", "RayJob"}
