"""The scripts that rent machines, start runs and watch them, with cloud tools that only log.

A dry run must print exactly the commands that a real run executes.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import time
import tomllib
from pathlib import Path

import pytest
import yaml
from helpers.paths import ROOT

from flaxdistill.errors import PeersLost, UserError

SCRIPTS = ROOT / "tpu_scripts"
RUN = [
    "distill",
    "my folder/my config.py",
    "--workdir",
    "gs://bucket/run",
    "--teacher.path",
    """a "b" \\c & it's $d""",
]
SETTINGS = {
    "NAME": "pod",
    "PROJECT": "project",
    "ZONE": "us-east5-b",
    "PACKAGE": "dist/flaxdistill-0.1.0-py3-none-any.whl",
    "TOPOLOGY": "2x2",
    "CLUSTER": "cluster",
    "LOCATION": "us-east5",
    "IMAGE": "region-docker.pkg.dev/project/images/flaxdistill:1",
    "GCLUSTER_IMAGE_REPO": "images",
    "POLL": "0",
}
ACCELERATOR = {"queued.sh": "v6e-16", "group.sh": "v6e", "gke.sh": "v6e", "toolkit.sh": "v6e-16"}

# Logs its arguments. Prints the next line of the file state or status, or a success.
TOOL = r"""#!/usr/bin/env bash
{ printf '%s\0' "${0##*/}" "$@"; printf '\1'; } >>log
case "$*" in
  *describe*) kind=state answer=ACTIVE ;;
  *list-instances*) kind=state answer='INSTANCE RUNNING' ;;
  *"get jobset"*) kind=state answer='0 Completed' ;;
  *status*) kind=status answer='worker a ended 0' ;;
  *) kind=other answer= ;;
esac
[[ $* != *--filename=-* ]] || cat >applied
if [[ -s $kind ]]; then answer=$(head -n 1 $kind); sed -i 1d $kind; fi
printf '%b\n' "$answer"
[[ $answer != ERROR* ]]
"""


class Workspace:
    """A folder with a config, a wheel and tools that only log their arguments."""

    def __init__(self, folder: Path):
        self.folder = folder
        for tool in ("gcloud", "kubectl", "gcluster"):
            self.write(f"bin/{tool}", TOOL)
        self.write(RUN[1], "config = 1\n")
        self.write(SETTINGS["PACKAGE"], "")

    def write(self, path: str, text: str) -> None:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o755)

    def run(self, script: str, *arguments: object, path: str | None = None, **settings: str | None):
        path = path or f"{self.folder / 'bin'}:{os.environ['PATH']}"
        variables = SETTINGS | {"ACCELERATOR": ACCELERATOR.get(script)} | settings
        environment = {name: value for name, value in variables.items() if value is not None}
        return subprocess.run(
            ["bash", str(SCRIPTS / script), *map(str, arguments)],
            cwd=self.folder,
            env={"PATH": path, "HOME": str(self.folder)} | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def dry_run(
        self, script: str, command: str, *arguments: str, **settings: str | None
    ) -> list[list[str]]:
        """Return the arguments of the commands that a dry run prints, without their stdin."""
        result = self.run(script, "--dry-run", command, *arguments, **settings)
        assert result.returncode == 0, result.stderr
        assert not (self.folder / "log").exists(), "a dry run runs nothing"
        text = re.sub(r" <<'EOF'\n.*?\nEOF\n", "\n", result.stdout, flags=re.DOTALL)
        return [shlex.split(line) for line in text.splitlines()]

    def log(self) -> list[list[str]]:
        file = self.folder / "log"
        records = file.read_text().split("\1")[:-1] if file.exists() else []
        file.unlink(missing_ok=True)
        return [record.split("\0")[:-1] for record in records]


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return Workspace(tmp_path)


def command_line(command: str) -> list[str]:
    return [command, *(RUN if command in ("launch", "resume") else [])]


COMMANDS = [
    (script, command)
    for script in ACCELERATOR
    for command in ("create", "launch", "watch", "resume", "stop", "delete")
]


@pytest.mark.parametrize(("script", "command"), COMMANDS)
def test_dry_run_prints_what_a_run_executes(workspace, script, command):
    commands = workspace.dry_run(script, *command_line(command))
    if command == "resume" and script in ("queued.sh", "group.sh"):
        missing = "ERROR: NOT_FOUND" if script == "queued.sh" else "INSTANCE TERMINATED"
        (workspace.folder / "state").write_text(f"{missing}\n")
    result = workspace.run(script, *command_line(command))
    assert result.returncode == 0, result.stderr
    assert workspace.log() == commands
    assert commands, "every command does something"


@pytest.mark.parametrize(
    ("script", "command", "settings", "expected"),
    [
        (
            "queued.sh",
            "create",
            {},
            "--zone=us-east5-b --accelerator-type=v6e-16 --runtime-version=v2-alpha-tpuv6e --spot "
            "--node-id=pod",
        ),
        (
            "queued.sh",
            "create",
            {"ACCELERATOR": "v4-32", "CAPACITY": "reserved"},
            "--runtime-version=tpu-ubuntu2204-base --reserved",
        ),
        (
            "queued.sh",
            "create",
            {"ACCELERATOR": "v5litepod-16"},
            "--runtime-version=v2-alpha-tpuv5-lite",
        ),
        (
            "queued.sh",
            "create",
            {"ACCELERATOR": "v5p-8", "SLICES": "2"},
            "--runtime-version=v2-alpha-tpuv5 --node-count=2 --node-prefix=pod",
        ),
        (
            "queued.sh",
            "launch",
            {},
            "--worker=all pod:flaxdistill/ dist/flaxdistill-0.1.0-py3-none-any.whl",
        ),
        ("queued.sh", "launch", {"SLICES": "2"}, "pod-0:flaxdistill/ pod-1:flaxdistill/"),
        ("queued.sh", "delete", {}, "queued-resources delete pod --force --project=project"),
        (
            "group.sh",
            "create",
            {},
            "--machine-type=ct6e-standard-4t --provisioning-model=SPOT --size=1 "
            "--target-size-policy-mode=bulk",
        ),
        (
            "group.sh",
            "create",
            {"ACCELERATOR": "v5p", "TOPOLOGY": "2x2x4"},
            "--machine-type=ct5p-hightpu-4t --size=4",
        ),
        (
            "group.sh",
            "create",
            {"ACCELERATOR": "tpu7x", "CAPACITY": "flex-start"},
            "--image-family=ubuntu-accel-2404-amd64-tpu-tpu7x --max-run-duration=7d",
        ),
        (
            "group.sh",
            "delete",
            {},
            "instance-groups instance-templates resource-policies --region=us-east5",
        ),
        (
            "gke.sh",
            "create",
            {"SLICES": "2", "TOPOLOGY": "4x4"},
            "pod-0 pod-1 --machine-type=ct6e-standard-4t --tpu-topology=4x4 --num-nodes=4 --spot",
        ),
        (
            "gke.sh",
            "create",
            {"ACCELERATOR": "tpu7x", "TOPOLOGY": "2x2x2"},
            "--placement-policy=pod --region=us-east5 --machine-type=tpu7x-standard-4t",
        ),
        (
            "group.sh",
            "launch",
            {},
            "INSTANCE:flaxdistill/ my\0folder/my\0config.py "
            "dist/flaxdistill-0.1.0-py3-none-any.whl",
        ),
        ("gke.sh", "launch", {}, "--from-file=config.py=my folder/my config.py".replace(" ", "\0")),
        (
            "toolkit.sh",
            "launch",
            {},
            "--compute-type=v6e-16 --num-slices=1 --restarts=3 --build-context=my\0folder",
        ),
    ],
)
def test_commands_contain(workspace, script, command, settings, expected):
    commands = workspace.dry_run(script, *command_line(command), **settings)
    arguments = {argument for arguments in commands for argument in arguments}
    assert {argument.replace("\0", " ") for argument in expected.split()} <= arguments
    assert "--spot" not in arguments or settings.get("CAPACITY") is None
    assert all("--worker=all" in arguments for arguments in commands if "tpu-vm" in arguments)


def test_command_line_reaches_the_program_unchanged(workspace):
    """Through the shells of gcloud and the worker, the JSON of a JobSet and gcluster's shell."""
    expected = ["distill", None, *RUN[2:]]
    for script, config in (
        ("queued.sh", "./my config.py"),
        ("group.sh", "./my config.py"),
        ("toolkit.sh", "my config.py"),
    ):
        *_, last = workspace.dry_run(script, *command_line("launch"))
        (command,) = (flag.partition("=")[2] for flag in last if flag.startswith("--command="))
        result = subprocess.run(
            ["bash", "-c", f"printf '%s\\0' {command}"], capture_output=True, text=True, check=True
        )
        assert result.stdout.split("\0")[-len(RUN) - 1 : -1] == [
            "distill",
            config,
            *expected[2:],
        ], script
    assert workspace.run("gke.sh", *command_line("launch")).returncode == 0
    (job,) = yaml.safe_load((workspace.folder / "applied").read_text())["spec"]["replicatedJobs"]
    (container,) = job["template"]["spec"]["template"]["spec"]["containers"]
    assert container["args"] == ["distill", "/config/config.py", *expected[2:]]


@pytest.mark.parametrize(
    ("states", "report", "restarts", "code", "resumed"),
    [
        (["ACTIVE"], ["worker a ended 0\\nworker b ended 0"], 5, 0, 0),
        (
            ["WAITING_FOR_RESOURCES", "ACTIVE"],
            ["step 3\\nworker a running\\nworker b ended 1", "worker a ended 0"],
            0,
            0,
            0,
        ),
        (["ACTIVE"], ["flaxdistill: no\\nworker a ended 2\\nworker b ended 1"], 5, 2, 0),
        (["ACTIVE"], ["worker a ended 1\\nworker b ended 137"], 0, 1, 0),
        (["ACTIVE"] * 4, ["worker a ended 0\\nworker b ended 143", "worker a ended 0"], 1, 0, 1),
        (["ACTIVE"] * 9, ["worker a ended 1", "worker a idle", "worker a ended 0"], 2, 0, 2),
        (["ACTIVE"] * 5, ["worker a ended 1", "worker a ended 1"], 1, 1, 1),
        (["SUSPENDED"], [], 0, 1, 0),
        (["SUSPENDED", "SUSPENDED", "PROVISIONING", "ACTIVE"], ["worker a ended 0"], 1, 0, 1),
        (["SUSPENDED", "SUSPENDED", "FAILED"], [], 5, 1, 0),
        (["ERROR: no network", "ACTIVE"], ["worker a ended 0"], 0, 0, 0),
    ],
)
def test_watch(workspace, states, report, restarts, code, resumed):
    (workspace.folder / "state").write_text("\n".join(states) + "\n")
    (workspace.folder / "status").write_text("".join(f"{line}\n" for line in report))
    result = workspace.run("queued.sh", "watch", *RUN, RESTARTS=str(restarts))
    assert result.returncode == code, result.stderr
    commands = workspace.log()
    assert sum("worker.sh start" in command[-1] for command in commands) == resumed
    lost = restarts and states[0] == "SUSPENDED"
    assert sum("delete" in command for command in commands) == bool(lost)


@pytest.mark.parametrize(
    ("script", "arguments", "settings", "message"),
    [
        ("queued.sh", [], {}, "give one of: create launch watch resume stop delete"),
        ("queued.sh", ["lunch"], {}, "give one of: create launch"),
        ("queued.sh", ["create", "now"], {}, "create takes no arguments; remove: now"),
        ("queued.sh", ["--dryrun", "create"], {}, "unknown flag --dryrun; see --help"),
        (
            "queued.sh",
            ["create"],
            {"ZONE": None},
            "ZONE is not set: where it is, such as us-east5-b; run export ZONE=...",
        ),
        (
            "queued.sh",
            ["create"],
            {"ACCELERATOR": "tpu7x-16"},
            "ACCELERATOR is tpu7x-16; queued resources have v4-N",
        ),
        (
            "queued.sh",
            ["create"],
            {"CAPACITY": "cheap"},
            "CAPACITY is cheap; it is spot, on-demand or reserved",
        ),
        ("queued.sh", ["launch"], {}, "give the flaxdistill command to run: launch distill CONFIG"),
        (
            "queued.sh",
            ["launch", *RUN[:2], "--workdir", "runs/x"],
            {},
            "--workdir is 'runs/x', which is local to each worker",
        ),
        (
            "queued.sh",
            ["launch", "distill", "none.py", *RUN[2:]],
            {},
            "there is no file none.py;",
        ),
        ("queued.sh", ["launch", *RUN], {"PACKAGE": "none.whl"}, "there is no wheel none.whl"),
        (
            "queued.sh",
            ["launch", *RUN],
            {"PACKAGE": "newest"},
            "PACKAGE is newest; give the path of a wheel, or a version",
        ),
        ("group.sh", ["create"], {"TOPOLOGY": "4"}, "TOPOLOGY is 4; write it as 4x4 or 2x2x4"),
        (
            "group.sh",
            ["create"],
            {"TOPOLOGY": "1x1"},
            "TOPOLOGY 1x1 has 1 chips; each host has 4",
        ),
        (
            "group.sh",
            ["create"],
            {"ACCELERATOR": "v4"},
            "ACCELERATOR is v4; groups have v5p, v6e or tpu7x",
        ),
        ("gke.sh", ["create"], {"CLUSTER": None}, "CLUSTER is not set"),
        (
            "toolkit.sh",
            ["launch", *RUN],
            {"GCLUSTER_IMAGE_REPO": None},
            "GCLUSTER_IMAGE_REPO is not set",
        ),
    ],
)
def test_error_is_one_line(workspace, script, arguments, settings, message):
    result = workspace.run(script, *arguments, **settings)
    assert result.returncode == 2
    assert message in result.stderr and result.stderr.count("\n") == 1
    assert workspace.log() == []


def test_launch_before_the_machines_are_ready(workspace):
    (workspace.folder / "state").write_text("WAITING_FOR_RESOURCES\n")
    result = workspace.run("queued.sh", *command_line("launch"))
    assert result.returncode == 2 and "pod is waiting, not ready" in result.stderr
    assert len(workspace.log()) == 1


@pytest.mark.parametrize("script", ACCELERATOR)
def test_missing_tool(workspace, script):
    for tool in ("bash", "dirname", "sed", "grep", "cat"):
        (workspace.folder / "few").mkdir(exist_ok=True)
        (workspace.folder / "few" / tool).symlink_to(shutil.which(tool))
    result = workspace.run(script, "create", path=str(workspace.folder / "few"))
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert f"{'gcluster' if script == 'toolkit.sh' else 'gcloud'} is not installed" in result.stderr
    help_ = workspace.run(script, "--help", path=str(workspace.folder / "few"))
    assert help_.returncode == 0 and f"{script} launch COMMAND CONFIG --workdir W" in help_.stdout


def test_jobset(workspace):
    """The JobSet meets v1alpha2, and its rules handle the exit codes of the program."""
    assert (
        workspace.run("gke.sh", *command_line("launch"), TOPOLOGY="4x4", SLICES="2").returncode == 0
    )
    text = (workspace.folder / "applied").read_text()
    assert "${" not in text
    jobset = yaml.safe_load(text)
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert jobset["metadata"]["name"] == "pod"
    (slices,) = jobset["spec"]["replicatedJobs"]
    job, pod = slices["template"]["spec"], slices["template"]["spec"]["template"]["spec"]
    assert slices["replicas"] == 2 and job["parallelism"] == job["completions"] == 4
    assert (
        job["completionMode"] == "Indexed"
        and job["backoffLimit"] == 0
        and pod["restartPolicy"] == "Never"
    )
    (container,) = pod["containers"]
    assert (
        container["resources"]["limits"]
        == container["resources"]["requests"]
        == {"google.com/tpu": 4}
    )
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in pod["volumes"]
    }

    policy, rules = jobset["spec"]["failurePolicy"], job["podFailurePolicy"]["rules"]
    assert policy["maxRestarts"] == 10
    assert [rule["action"] for rule in policy["rules"]] == [
        "FailJobSet",
        "RestartJobSetAndIgnoreMaxRestarts",
    ]
    assert {rule["action"] for rule in rules} == {"FailJob"}
    assert all(
        rule["onExitCodes"]["containerName"] == container["name"]
        for rule in rules
        if "onExitCodes" in rule
    )
    assert container["env"] == [{"name": "FLAXDISTILL_STOPPED", "value": str(128 + signal.SIGTERM)}]
    assert re.search(
        r"^ENV FLAXDISTILL_STOPPED=143$", (SCRIPTS / "Dockerfile").read_text(), re.MULTILINE
    )
    codes = [rule["onExitCodes"]["values"] if "onExitCodes" in rule else None for rule in rules]
    assert codes == [[UserError.code], None, [128 + signal.SIGTERM]]
    assert PeersLost.code not in (UserError.code, 128 + signal.SIGTERM)
    (pattern,) = policy["rules"][0]["onJobFailureMessagePatterns"]
    message = (
        "Container flaxdistill for pod default/pod-slice-0-0 failed with exit code 2 matching "
        "FailJob rule at index "
    )
    assert re.search(pattern, message + "0") and not re.search(pattern, message + "10")


@pytest.mark.parametrize(
    ("code", "restarts", "requeued", "exit_code"),
    [
        (0, 0, False, 0),
        (2, 0, False, 2),
        (143, 99, True, 0),
        (1, 0, True, 0),
        (137, 2, True, 0),
        (137, 3, False, 137),
    ],
)
def test_slurm(workspace, code, restarts, requeued, exit_code):
    workspace.write(
        "bin/srun", f'#!/bin/sh\nprintf "%s\\n" "$@" $FLAXDISTILL_STOPPED >ran\nexit {code}\n'
    )
    workspace.write("bin/scontrol", '#!/bin/sh\necho "$@" >requeue\n')
    workspace.write("bin/flaxdistill", "#!/bin/sh\n")
    result = workspace.run(
        "slurm.sbatch", *RUN, SLURM_JOB_ID="7", SLURM_RESTART_COUNT=str(restarts)
    )
    assert result.returncode == exit_code, result.stderr
    assert (workspace.folder / "ran").read_text().splitlines() == ["flaxdistill", *RUN, "143"]
    assert (workspace.folder / "requeue").exists() == requeued
    assert not requeued or (workspace.folder / "requeue").read_text() == "requeue 7\n"


def test_slurm_errors(workspace):
    assert "give the flaxdistill command to run" in workspace.run("slurm.sbatch").stderr
    assert "submit this script with sbatch" in workspace.run("slurm.sbatch", *RUN).stderr
    result = workspace.run("slurm.sbatch", *RUN, SLURM_JOB_ID="7", VENV="none")
    assert (
        result.returncode == 2
        and "VENV is none, which is not a virtual environment" in result.stderr
    )
    flags = re.findall(r"^#SBATCH (\S+)$", (SCRIPTS / "slurm.sbatch").read_text(), re.MULTILINE)
    assert {"--requeue", "--signal=TERM@120", "--gpus-per-node=8", "--ntasks-per-node=8"} <= set(
        flags
    )


def test_worker(workspace):
    """A run outlives the shell that started it, excludes a second one and stops on SIGTERM."""
    worker = ["bash", str(workspace.folder / "flaxdistill" / "worker.sh")]
    workspace.write("flaxdistill/worker.sh", (SCRIPTS / "worker.sh").read_text())
    stop = "trap 'echo saved; exit ${FLAXDISTILL_STOPPED:-0}' TERM"
    program = f'#!/bin/bash\n{stop}\necho "$@"\nfor i in {{1..600}}; do sleep 0.05; done\n'
    workspace.write("flaxdistill/venv/bin/flaxdistill", program)

    def call(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run([*worker, *arguments], capture_output=True, text=True, timeout=20)

    def wait_for(ending: str) -> str:
        deadline = time.monotonic() + 20
        while not (status := call("status").stdout).endswith(f" {ending}\n"):
            assert time.monotonic() < deadline, status
            time.sleep(0.05)
        return status

    assert wait_for("idle").startswith("worker ")
    try:
        assert "started" in call("start", "distill", "./my config.py").stdout
        while "distill ./my config.py" not in wait_for("running"):
            pass
        again = call("start", "distill", "other.py")
        assert again.returncode == 2 and "a run is already running" in again.stderr
    finally:
        assert call("stop").returncode == 0
    assert wait_for("ended 143").startswith("saved\n")


def test_all_scripts_are_linted_and_extras_exist():
    """The linter names every script; images and workers install extras that exist."""
    entry = re.search(r"entry: shellcheck (.*)", (ROOT / ".pre-commit-config.yaml").read_text())
    scripts = {
        path.relative_to(ROOT).as_posix()
        for path in SCRIPTS.iterdir()
        if path.suffix in (".sh", ".sbatch")
    }
    assert scripts | {".ci/run"} == {path for path in entry[1].split() if path[0] != "-"}
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    text = (SCRIPTS / "Dockerfile").read_text() + (SCRIPTS / "vms.sh").read_text()
    named = re.findall(r"EXTRAS=([a-z0-9,]+)", text) + re.findall(r"\[([a-z,]+)\][=\"]", text)
    assert len(named) == 4
    assert {extra for names in named for extra in names.split(",")} <= set(extras)
    assert (SCRIPTS / "Dockerfile.dockerignore").read_text().splitlines()[-2:] == [
        "*",
        "!dist/flaxdistill-*.whl",
    ]
