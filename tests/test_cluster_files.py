"""The files of docs/cluster: scripts run with a recorded `handdata`, whose flags the parser reads; a known RayJob."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from handdata.rows.parts import Part
from tests import ROOT
from tests.snippets import parse

FOLDER = ROOT / "docs/cluster"
SCRIPTS = sorted(FOLDER.glob("*.sh"))

# Fields of the custom resource RayJob that the file may use (API reference of KubeRay, ray.io/v1), and of a pod
# (Kubernetes, v1): a type, a list of one kind, or a dict, whose fields with a `!` are required.
_AMOUNTS = {"cpu": str, "memory": str, "nvidia.com/gpu": int}
_POD = {
    "spec!": {
        "containers!": [
            {
                "name!": str, "image!": str, "env": [{"name!": str, "value!": str}],
                "resources": {"requests": _AMOUNTS, "limits": _AMOUNTS},
                "volumeMounts": [{"name!": str, "mountPath!": str}],
            }
        ],
        "volumes": [{"name!": str, "persistentVolumeClaim": {"claimName!": str}}],
    }
}  # fmt: skip
_START = {"num-cpus": str}  # flags of `ray start`, as texts
_RAY_JOB = {
    "apiVersion!": str, "kind!": str, "metadata!": {"name!": str},
    "spec!": {
        "entrypoint": str, "shutdownAfterJobFinishes": bool, "ttlSecondsAfterFinished": int,
        "rayClusterSpec": {
            "rayVersion": str,
            "headGroupSpec!": {"rayStartParams": _START, "template!": _POD},
            "workerGroupSpecs": [
                {
                    "groupName!": str, "replicas": int, "minReplicas!": int, "maxReplicas!": int,
                    "rayStartParams": _START, "template!": _POD,
                }
            ],
        },
    },
}  # fmt: skip


def faults(value: Any, schema: Any, where: str = "") -> list[str]:
    """Return the places of a value that do not fit a schema."""
    if isinstance(schema, dict):
        if not isinstance(value, dict):
            return [f"{where} is not a table"]
        known = {name.rstrip("!"): kind for name, kind in schema.items()}
        wrong = [f"{where}.{name} is unknown" for name in value if name not in known]
        wrong += [f"{where}.{name[:-1]} is missing" for name in schema if name[-1] == "!" and name[:-1] not in value]
        parts = [(f"{where}.{name}", value[name], known[name]) for name in value if name in known]
    elif isinstance(schema, list):
        if not isinstance(value, list):
            return [f"{where} is not a list"]
        wrong, parts = [], [(f"{where}[{n}]", item, schema[0]) for n, item in enumerate(value)]
    else:
        return [] if type(value) is schema else [f"{where} is not a {schema.__name__}"]
    return wrong + [fault for place, item, kind in parts for fault in faults(item, kind, place)]


def recorded(script: Path, folder: Path, **environment: str) -> list[str]:
    """Run a script with a `handdata` that only prints its arguments; return the command lines."""
    program = folder / "handdata"
    program.write_text('#!/bin/bash\nprintf "handdata"; printf " %q" "$@"; echo\n')
    program.chmod(0o755)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "BUILD": str(folder / "build"), **environment}
    done = subprocess.run(["bash", script], env=environment, cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_the_script_of_one_machine_is_a_command_line_that_the_parser_reads(tmp_path):
    (line,) = recorded(FOLDER / "one_machine.sh", tmp_path)
    assert "--workers 8" in line
    parse(line)


def test_the_tasks_of_the_slurm_array_are_all_parts_of_the_build(tmp_path):
    script = FOLDER / "slurm_array.sh"
    text = script.read_text()
    first, last = map(int, re.search(r"^#SBATCH --array=(\d+)-(\d+)$", text, re.M).groups())
    parts = []
    for task in range(first, last + 1):
        count = str(last - first + 1)
        (line,) = recorded(script, tmp_path, SLURM_ARRAY_TASK_ID=str(task), SLURM_ARRAY_TASK_COUNT=count)
        parse(line)
        parts.append(Part.parse(line.split("--part ")[1]))
    assert [part.number for part in parts] == list(range(1, len(parts) + 1)) and {part.of for part in parts} == {8}
    parse(re.search(r'--wrap "(handdata .*)"$', text, re.M)[1])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_without_its_variables_ends_before_it_does_anything(script, tmp_path):
    environment = {"PATH": os.environ["PATH"]}
    lines = script.read_text().splitlines()
    assert lines[0] == "#!/bin/bash" and "set -eu" in lines
    done = subprocess.run(["bash", "-n", script], env=environment, cwd=tmp_path, check=False)
    assert done.returncode == 0
    if "BUILD:?" in script.read_text():
        done = subprocess.run(
            ["bash", script], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode != 0 and "set BUILD to a folder" in done.stderr


def test_the_ray_job_has_the_fields_of_its_custom_resource():
    job = yaml.safe_load((FOLDER / "ray_job.yaml").read_text())
    assert faults(job, _RAY_JOB) == [] and (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    parse(job["spec"]["entrypoint"])
    cluster = job["spec"]["rayClusterSpec"]
    (group,) = cluster["workerGroupSpecs"]
    assert f"--workers {group['replicas']}" in job["spec"]["entrypoint"], "one worker per GPU"
    for pod in (cluster["headGroupSpec"]["template"]["spec"], group["template"]["spec"]):
        (container,), (volume,) = pod["containers"], pod["volumes"]
        assert container["volumeMounts"][0]["name"] == volume["name"]
        assert job["spec"]["entrypoint"].split("--out ")[1].startswith(container["volumeMounts"][0]["mountPath"] + "/")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda job: job["spec"].update(entryPoint=""), ".spec.entryPoint is unknown"),
        (lambda job: job["spec"]["rayClusterSpec"].pop("headGroupSpec"), ".headGroupSpec is missing"),
        (lambda job: job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0].update(replicas="8"), "is not a int"),
    ],
)
def test_a_wrong_field_is_found(change, words):
    job = yaml.safe_load((FOLDER / "ray_job.yaml").read_text())
    change(job)
    assert any(words in fault for fault in faults(job, _RAY_JOB))
