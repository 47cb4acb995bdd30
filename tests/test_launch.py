"""The launch scripts: what they would run and refuse, and that signals and words come through.

Commands of schedulers and clouds are stubs here, first in PATH.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

LAUNCH = Path(__file__).parent.parent / "launch"
READ_BY_SCRIPTS = (
    *(
        "EXTRA",
        "VENV",
        "PYTHON",
        "CUDA_VISIBLE_DEVICES",
        "NAME",
        "ZONE",
        "CHECKOUT",
        "TASKS",
        "GPUS",
    ),
    *("CPUS", "MINUTES", "IMAGE", "CLAIM", "WORKERS", "SLURM_CPUS_PER_TASK"),
)
SCHEDULERS = ("gcloud", "kubectl", "sbatch", "srun", "scontrol")
TPU = {"NAME": "my-tpu", "ZONE": "us-central2-b"}
POD = {"IMAGE": "registry.example/jaxsearch:1", "CLAIM": "sweeps"}


class Machine:
    """A folder with stubs, where scripts run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "sweep.yaml"
        self.config.write_text("{}\n")
        self.venv = folder / "venv"
        for command in ("python3", *SCHEDULERS):
            self.stub(f"stubs/{command}")
        self.stub("stubs/nvidia-smi", "exit 9")

    def stub(self, path: str, script: str = "") -> Path:
        """A command that notes its words, one a line, in NAME.log, and then runs `script`."""
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        log = self.folder / f"{file.name}.log"
        file.write_text(f"#!/usr/bin/env bash\nprintf '%s\\n' \"$@\" >> {log}\n{script}\n")
        file.chmod(0o755)
        return log

    def environment(self, variables: dict[str, str]) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in READ_BY_SCRIPTS}
        return {**kept, "PATH": f"{self.folder}/stubs:/usr/bin:/bin", **variables}

    def idle(self) -> bool:
        """Whether no command and no scheduler has been called."""
        return not any(
            (self.folder / f"{name}.log").exists() for name in ("jaxsearch", *SCHEDULERS)
        )

    def start(self, script: str, *words: str, **variables: str) -> subprocess.Popen:
        # A shell cannot trap what it was born to ignore, as jobs in the background do SIGINT.
        return subprocess.Popen(
            ["/usr/bin/env", "--default-signal=INT", "bash", str(LAUNCH / script), *words],
            env=self.environment(variables),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def launch(self, script: str, *words: str, **variables: str) -> subprocess.CompletedProcess:
        process = self.start(script, *words, **variables)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def dry(self, script: str, *words: str, **variables: str) -> list[list[str]]:
        """The commands that a dry run prints, in words."""
        done = self.launch(script, "--dry-run", *words, **variables)
        assert done.returncode == 0, done.stderr
        assert self.idle()
        return [shlex.split(line.removeprefix("+")) for line in done.stderr.splitlines()]


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def wait_for(*files: Path) -> None:
    for _ in range(600):
        if all(file.exists() for file in files):
            return
        time.sleep(0.05)
    raise AssertionError(f"none of {files} came in 30 seconds")


def sweep(machine: Machine, *more: str) -> list[str]:
    return ["sweep", str(machine.config), "--output", "out", *more]


def installs(machine: Machine, wanted: str) -> list[list[str]]:
    return [
        ["python3", "-m", "venv", str(machine.venv)],
        [f"{machine.venv}/bin/pip", "install", "--quiet", f"{LAUNCH.parent}{wanted}"],
    ]


# --- dry runs: the very commands, and nothing of them happens


def test_local_would_install_and_run(machine):
    commands = machine.dry(
        "local.sh", "search", "--prompts", "a lighthouse", EXTRA="cuda", VENV=str(machine.venv)
    )
    assert commands == [
        *installs(machine, "[cuda]"),
        ["exec", f"{machine.venv}/bin/jaxsearch", "search", "--prompts", "a lighthouse"],
    ]
    assert not machine.venv.exists()


def test_what_is_installed_is_not_installed_again(machine):
    machine.stub("venv/bin/jaxsearch")
    assert len(machine.dry("local.sh", "list", VENV=str(machine.venv))) == 1


def test_multi_gpu_would_start_one_process_on_each_gpu(machine):
    machine.stub("venv/bin/jaxsearch")
    machine.stub("stubs/nvidia-smi", "echo 0; echo 1")
    variables = {"VENV": str(machine.venv)}

    def expected(*gpus: str) -> list[list[str]]:
        return [
            ["env", f"CUDA_VISIBLE_DEVICES={gpu}", f"{machine.venv}/bin/jaxsearch"]
            + sweep(machine, "--quiet", "--process", str(i), "--processes", str(len(gpus)))
            for i, gpu in enumerate(gpus)
        ]

    words = ("multi_gpu.sh", str(machine.config), "out", "--quiet")
    assert machine.dry(*words, **variables) == expected("0", "1")
    for gpus in ("0,2,3", "GPU-5e1f-88"):
        commands = machine.dry(*words, CUDA_VISIBLE_DEVICES=gpus, **variables)
        assert commands == expected(*gpus.split(","))


def test_multi_gpu_and_slurm_install_for_gpus(machine):
    words = (str(machine.config), "out")
    variables = {"VENV": str(machine.venv)}
    commands = machine.dry("multi_gpu.sh", *words, CUDA_VISIBLE_DEVICES="0", **variables)
    assert commands[:2] == installs(machine, "[cuda]")
    assert machine.dry("slurm.sh", *words, **variables)[:2] == installs(machine, "[cuda]")
    assert machine.dry("slurm.sh", *words, GPUS="0", **variables)[:2] == installs(machine, "")
    for script in ("multi_gpu.sh", "slurm.sh"):
        commands = machine.dry(script, *words, CUDA_VISIBLE_DEVICES="0", EXTRA="", **variables)
        assert commands[:2] == installs(machine, "")


def test_tpu_vm_would_start_a_process_on_each_host(machine):
    ssh = ("gcloud", "compute", "tpus", "tpu-vm", "ssh", "my-tpu", "--zone", "us-central2-b")
    install = 'EXTRA=tpu VENV="$HOME/jaxsearch-venv" PYTHON=python3 launch/local.sh'
    sweep = "sweep sweep.yaml --output /mnt/out --quiet --process"
    words = ("tpu_vm.sh", "sweep.yaml", "/mnt/out", "--quiet")
    (command,) = machine.dry(*words, **TPU)
    assert command == [
        *(*ssh, "--worker", "0", "--command"),
        f"cd jaxsearch && {install} {sweep} 0 --processes 1",
    ]
    alone = (
        "CLOUD_TPU_TASK_ID=0 TPU_PROCESS_BOUNDS=1,1,1 TPU_CHIPS_PER_PROCESS_BOUNDS=2,4,1"
        " TPU_VISIBLE_CHIPS=0,1,2,3,4,5,6,7"
    )
    commands = machine.dry(*words, WORKERS="2", BOUNDS="2,4,1", **TPU)
    assert commands == [
        [
            *(*ssh, "--worker", str(i), "--command"),
            f"cd jaxsearch && {alone} {install} {sweep} {i} --processes 2",
        ]
        for i in range(2)
    ]


def test_tpu_vm_names_the_hosts_that_failed(machine):
    """Kills: a script that waits for the first connection alone, or forgets its status."""
    machine.stub(
        "stubs/gcloud", 'case "${@: -1}" in *"--process 1 "*) exit 4 ;; esac; touch "ok-$$"'
    )
    done = machine.launch("tpu_vm.sh", "sweep.yaml", "/mnt/out", WORKERS="3", **TPU)
    assert done.returncode == 4
    assert "tpu_vm.sh: process 1 ended with status 4" in done.stderr
    assert len(list(machine.folder.glob("ok-*"))) == 2


def test_slurm_would_submit_one_job(machine):
    machine.stub("venv/bin/jaxsearch")
    job = [f"{LAUNCH}/slurm.sbatch", f"{machine.venv}/bin/jaxsearch", str(machine.config), "out"]
    words = ("slurm.sh", str(machine.config), "out")
    (command,) = machine.dry(*words, VENV=str(machine.venv))
    assert command == [
        *("sbatch", "--ntasks", "1", "--gpus-per-task", "1", "--cpus-per-task", "4"),
        *("--time", "240", *job),
    ]
    sizes = {"TASKS": "8", "GPUS": "0", "CPUS": "2", "MINUTES": "30"}
    (command,) = machine.dry(*words, "--quiet", VENV=str(machine.venv), **sizes)
    assert command == [
        *("sbatch", "--ntasks", "8", "--cpus-per-task", "2", "--time", "30", *job, "--quiet"),
    ]


def test_kubernetes_writes_an_indexed_job(machine):
    words = ("/data/sweep.yaml", "/data/out", "--prompts", "a 'b': {c}")
    done = machine.launch("kubernetes.sh", "--dry-run", *words, WORKERS="3", GPUS="2", **POD)
    assert (done.returncode, done.stderr) == (0, "+ kubectl apply --filename -\n")
    assert machine.idle()
    command = [
        *("jaxsearch", "sweep", "/data/sweep.yaml", "--output", "/data/out"),
        *("--prompts", "a 'b': {c}"),
        *("--process", "$(JOB_COMPLETION_INDEX)", "--processes", "3"),
    ]
    container = {
        "name": "jaxsearch",
        "image": POD["IMAGE"],
        "command": command,
        "resources": {"limits": {"nvidia.com/gpu": 2}},
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    pod = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 120,
        "containers": [container],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": POD["CLAIM"]}}],
    }
    disruption = {"type": "DisruptionTarget", "status": "True"}
    rules = [
        {"action": "Ignore", "onPodConditions": [disruption]},
        {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [143]}},
    ]
    assert yaml.safe_load(done.stdout) == {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "jaxsearch"},
        "spec": {
            "completionMode": "Indexed",
            "completions": 3,
            "parallelism": 3,
            "backoffLimitPerIndex": 3,
            "podFailurePolicy": {"rules": rules},
            "template": {"spec": pod},
        },
    }
    done = machine.launch("kubernetes.sh", "--dry-run", *words, GPUS="0", NAME="many", **POD)
    made = yaml.safe_load(done.stdout)
    del container["resources"]
    command[-1] = "1"
    assert made["spec"]["template"]["spec"] == pod
    assert made["metadata"] == {"name": "many"}


# --- what is refused: one line that names the value, status 2, and nothing ran

REFUSED = {
    "local.sh": (
        ["search"],
        {},
        [("EXTRA", "rocm"), ("VENV", "sweep.yaml"), ("PYTHON", "python9")],
    ),
    "multi_gpu.sh": (
        ["sweep.yaml", "out"],
        {"CUDA_VISIBLE_DEVICES": "0"},
        [("CUDA_VISIBLE_DEVICES", "0,one"), ("CUDA_VISIBLE_DEVICES", ""), ("EXTRA", "rocm")],
    ),
    "tpu_vm.sh": (
        ["sweep.yaml", "/mnt/out"],
        TPU,
        [
            *(("NAME", ""), ("NAME", "My TPU"), ("ZONE", ""), ("ZONE", "us-central2")),
            *(("CHECKOUT", "a; b"), ("PYTHON", "python3 -v")),
            *(("WORKERS", "0"), ("WORKERS", "two"), ("BOUNDS", "4"), ("BOUNDS", "2,2,0")),
        ],
    ),
    "slurm.sh": (
        ["sweep.yaml", "out"],
        {},
        [
            *(("TASKS", "0"), ("TASKS", "many"), ("GPUS", "-1"), ("CPUS", "0"), ("CPUS", "1.5")),
            *(("MINUTES", "4"), ("MINUTES", "1:00"), ("EXTRA", "rocm")),
        ],
    ),
    "kubernetes.sh": (
        ["/data/sweep.yaml", "/data/out"],
        POD,
        [
            *(("IMAGE", ""), ("IMAGE", "an image"), ("CLAIM", ""), ("CLAIM", "My_Claim")),
            *(("NAME", "Big"), ("NAME", "n" * 53), ("WORKERS", "0"), ("GPUS", "one")),
        ],
    ),
}


@pytest.mark.parametrize(
    ("script", "name", "value"),
    [(script, *pair) for script, (_, _, pairs) in REFUSED.items() for pair in pairs],
)
def test_bad_variables_are_refused(machine, script, name, value):
    words, variables, _ = REFUSED[script]
    assert machine.dry(script, *words, **variables)  # without the bad one it would run
    done = machine.launch(script, *words, **{**variables, name: value})
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{script}: ")
    assert f"'{value}'" in line
    assert machine.idle()
    assert name in line


@pytest.mark.parametrize("script", [name for name in REFUSED if name != "local.sh"])
def test_bad_words_are_refused(machine, script):
    (config, folder), variables, _ = REFUSED[script]
    bad = [
        ([], "CONFIG DIR"),
        ([config], "CONFIG DIR"),
        ([config, "--output", folder], "CONFIG DIR"),
        *(([config, folder, word], word) for word in ("--process", "--processes=2", "--output=x")),
    ]
    if script in ("multi_gpu.sh", "slurm.sh"):
        bad.append((["none.yaml", folder], "none.yaml"))
    if script == "tpu_vm.sh":
        bad.append(([config, "out"], "DIR is 'out'"))
    if script == "kubernetes.sh":
        bad += [(["s.yaml", folder], "CONFIG is 's.yaml'"), ([config, "/out"], "DIR is '/out'")]
    for words, named in bad:
        done = machine.launch(script, *words, **variables)
        assert (done.returncode, done.stdout) == (2, "")
        assert named in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_local_needs_a_command_and_slurms_job_its_words(machine):
    for script in ("local.sh", "slurm.sbatch"):
        done = machine.launch(script)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1


def test_multi_gpu_without_gpus_is_refused(machine):
    done = machine.launch("multi_gpu.sh", "sweep.yaml", "out")
    assert done.returncode == 2
    assert "CUDA_VISIBLE_DEVICES=0,1" in done.stderr


def test_an_old_python_is_refused(machine):
    machine.stub("stubs/python3", "exit 1")
    done = machine.launch("local.sh", "list", VENV=str(machine.venv))
    assert done.returncode == 2
    assert "PYTHON is 'python3'" in done.stderr


# --- real runs, with stubs at the ends

WORKER = """
trap 'sleep $((1 - gpu)); echo TERM > got-$gpu; exit 143' TERM
trap 'sleep $((1 - gpu)); echo INT > got-$gpu; exit 130' INT
gpu=${CUDA_VISIBLE_DEVICES:-none}
touch started-$gpu
for _ in {1..600}; do sleep 0.05; done
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_reach_every_process(machine, number, status):
    """Kills: `wait` without the loop, no `set -m` (SIGINT is then ignored), no `trap`."""
    machine.stub("venv/bin/jaxsearch", WORKER)
    process = machine.start(
        *("multi_gpu.sh", "sweep.yaml", "out"), VENV=str(machine.venv), CUDA_VISIBLE_DEVICES="0,1"
    )
    wait_for(machine.folder / "started-0", machine.folder / "started-1")
    process.send_signal(number)
    assert process.wait(timeout=60) == status
    assert all((machine.folder / f"got-{gpu}").exists() for gpu in (0, 1))  # it waited for them
    _, err = process.communicate(timeout=60)
    for gpu in (0, 1):
        got = (machine.folder / f"got-{gpu}").read_text().strip()
        assert signal.Signals[f"SIG{got}"] == number
        assert f"process {gpu}, on GPU {gpu}, ended with status {status}" in err


def test_a_signal_reaches_the_command_of_local(machine):
    """Kills: the command as a child of the script, which would die alone."""
    machine.stub("venv/bin/jaxsearch", WORKER)
    process = machine.start("local.sh", "search", VENV=str(machine.venv))
    wait_for(machine.folder / "started-none")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert (machine.folder / "got-none").exists()


def test_multi_gpu_waits_for_all_and_names_who_failed(machine):
    """The others go on when one fails; the worst status is the script's."""
    machine.stub(
        "venv/bin/jaxsearch",
        'case $CUDA_VISIBLE_DEVICES in 3) exit 7 ;; 4) exit 5 ;; esac; sleep 0.5; touch "done-$6"',
    )
    done = machine.launch(
        *("multi_gpu.sh", "sweep.yaml", "out"),
        **{"VENV": str(machine.venv), "CUDA_VISIBLE_DEVICES": "2,3,4"},
    )
    assert done.returncode == 7
    failures = [line for line in done.stderr.splitlines() if "ended" in line]
    assert failures == [
        "multi_gpu.sh: process 1, on GPU 3, ended with status 7",
        "multi_gpu.sh: process 2, on GPU 4, ended with status 5",
    ]
    assert [file.name for file in machine.folder.glob("done-*")] == ["done-0"]

    machine.stub("venv/bin/jaxsearch")
    done = machine.launch(
        *("multi_gpu.sh", "sweep.yaml", "out"),
        **{"VENV": str(machine.venv), "CUDA_VISIBLE_DEVICES": "0,1"},
    )
    assert done.returncode == 0


def test_words_reach_the_tpu_hosts_whole(machine):
    """The command goes through two shells: gcloud is a host here, with a checkout in its home."""
    machine.stub("stubs/gcloud", f'HOME={machine.folder}/host; cd "$HOME"; bash -c "${{@: -1}}"')
    script = 'echo "$PWD|$EXTRA|$VENV|$PYTHON" > seen'
    log = machine.stub("host/my/checkout/launch/local.sh", script)
    more = {"CHECKOUT": "my/checkout", "PYTHON": "python3.12"}
    words = ("sweep.yaml", "/mnt/out", "--prompts", "a 'b' $c", "d;e")
    assert machine.launch("tpu_vm.sh", *words, **TPU, **more).returncode == 0
    assert log.read_text().splitlines() == [
        *("sweep", "sweep.yaml", "--output", "/mnt/out", "--prompts", "a 'b' $c", "d;e"),
        *("--process", "0", "--processes", "1"),
    ]
    home = f"{machine.folder}/host"
    seen = (machine.folder / "host/my/checkout/seen").read_text().strip()
    assert seen == f"{home}/my/checkout|tpu|{home}/jaxsearch-venv|python3.12"


def test_kubectl_gets_the_manifest(machine):
    machine.stub("stubs/kubectl", "cat > manifest.yaml")
    words = ("kubernetes.sh", "/data/sweep.yaml", "/data/out")
    done = machine.launch(*words, **POD)
    assert (done.returncode, done.stdout) == (0, "")
    applied = (machine.folder / "manifest.yaml").read_text()
    assert applied == machine.launch(words[0], "--dry-run", *words[1:], **POD).stdout
    machine.stub("stubs/kubectl", "exit 3")
    assert machine.launch(*words, **POD).returncode == 3


def slurm_job(machine: Machine, status: int) -> tuple[int, list[str]]:
    """The job with a stand-in for SLURM, of two tasks; its status and scontrol's words."""
    machine.stub("jaxsearch", f"exit {status}")
    log = machine.stub("stubs/scontrol")
    log.unlink(missing_ok=True)
    machine.stub(
        "stubs/srun",
        "while [[ $1 == --* ]]; do shift; done; status=0; export SLURM_NTASKS=2 SLURM_PROCID\n"
        'for SLURM_PROCID in 0 1; do "$@" || status=$?; done; exit $status',
    )
    words = (str(machine.folder / "jaxsearch"), "sweep.yaml", "out", "--prompts", "a b")
    done = machine.launch("slurm.sbatch", *words, SLURM_JOB_ID="17")
    return done.returncode, log.read_text().split() if log.exists() else []


def test_slurms_tasks_know_their_numbers(machine):
    assert slurm_job(machine, 0) == (0, [])
    words = (machine.folder / "jaxsearch.log").read_text().splitlines()
    common = ["sweep", "sweep.yaml", "--output", "out", "--prompts", "a b"]
    assert words == [
        *(*common, "--process", "0", "--processes", "2"),
        *(*common, "--process", "1", "--processes", "2"),
    ]


@pytest.mark.parametrize(("status", "again"), [(143, ["requeue", "17"]), (1, []), (137, [])])
def test_only_a_job_that_was_told_to_stop_queues_again(machine, status, again):
    assert slurm_job(machine, status) == (status, again)


@pytest.mark.parametrize("path", sorted(LAUNCH.iterdir()), ids=lambda path: path.name)
def test_every_script_is_strict_and_can_be_run(path):
    if path.name == "common.sh":  # sourced
        return
    assert path.read_text().startswith("#!/usr/bin/env bash\n# ")
    assert "\nset -euo pipefail\n" in path.read_text()
    assert os.access(path, os.X_OK)
    assert path.name in REFUSED or path.suffix == ".sbatch"
