"""Does a killed run resume as if nothing had happened?

    python benchmarks/kill_and_resume.py --seed 0

A distillation of 23M parameters (280 MB per checkpoint, dropout on, every step logged) runs once
undisturbed, and once killed repeatedly: while a checkpoint is written, while the step is compiled,
and anywhere, by SIGKILL or SIGTERM, as drawn from the seed. Every logged metric of the two runs is
compared, except speed, and the step that each start resumes from is compared with the newest
complete checkpoint.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from flaxdistill.data.corpus import Corpus
from flaxdistill.data.sources import Source
from flaxdistill.experiment.config import Experiment
from flaxdistill.experiment.model_configs import Stage, Student, Teacher
from flaxdistill.losses.cosine import HiddenCosine
from flaxdistill.losses.vocab import MaskedLM, VocabKD
from flaxdistill.models.start import Start

teacher = Experiment(
    student=Student(
        start=Start(path=None), num_layers=4, hidden_size=768, num_heads=12, intermediate_size=3072
    ),
    corpus=Corpus(
        sources=(Source(path="docstrings"),), vocab_size=2048, max_length=32, held_out_blocks=16
    ),
    losses={"mlm": MaskedLM()},
    batch_size=4,
    steps=1,
)
student = dataclasses.replace(
    teacher,
    teacher=Teacher(path=Stage("teacher")),
    student=Student(num_layers=3),
    losses={"vocab": VocabKD(tokens="masked"), "cosine": HiddenCosine()},
    steps=120,
    log_every=1,
    save_every=4,
    eval_every=50,
)
config = {"teacher": teacher, "student": student}


@dataclasses.dataclass
class Child:
    """One start of the command and its output."""

    workdir: Path
    process: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def start(cls, workdir: Path, number: int, cache: Path) -> Child:
        log = workdir.parent / f"{workdir.name}-{number}.log"
        command = [
            sys.executable,
            "-m",
            "flaxdistill",
            "distill",
            __file__,
            "--workdir",
            str(workdir),
        ]
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_LOG_COMPILES": "1",
            "XDG_CACHE_HOME": str(cache),
        }
        with log.open("wb") as file:
            process = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, env=environment
            )
        return cls(workdir, process, log)

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def until(self, what: Callable[[], bool]) -> bool:
        """Wait for a condition; return False if the process ended first."""
        while not what():
            if self.process.poll() is not None:
                return False
            time.sleep(0.005)
        return True

    def complete(self) -> int:
        """Return the newest complete checkpoint of the student."""
        folder = self.workdir / "student" / "checkpoints"
        return max((int(f.name) for f in folder.glob("*") if f.name.isdigit()), default=0)

    def stepping(self) -> bool:
        return "student step" in self.output()

    def writing(self) -> bool:
        """Return whether a checkpoint is being written; incomplete earlier ones are removed when
        the run steps.
        """
        folder = self.workdir / "student" / "checkpoints"
        return self.stepping() and any(folder.glob("*.orbax-checkpoint-tmp*"))

    def compiling(self) -> bool:
        output = self.output().rpartition("jit(make_sanity_check")[2]
        return (
            "Compiling jit(step)" in output
            and "Finished XLA compilation of jit(step)" not in output
        )


def kill(child: Child, where: str, number: int, draw: random.Random) -> dict[str, object] | None:
    """Kill a child at the drawn place; return None if it finished before."""
    if where == "save":
        found, wait = child.until(child.writing), draw.uniform(0, 0.6)
    elif where == "compilation":
        found, wait = child.until(child.compiling), draw.uniform(0, 2)
    else:
        found = child.until(child.stepping)
        wait = draw.uniform(0, 8)
    if not found:
        return None
    time.sleep(wait)
    inside = {"save": child.writing, "compilation": child.compiling}.get(where, lambda: True)()
    complete = child.complete()
    if child.process.poll() is not None:
        return None
    child.process.send_signal(number)
    code = child.process.wait()
    return {
        "where": where if inside else "anywhere",
        "signal": signal.Signals(number).name,
        "complete": complete,
        "code": code,
        "stopped": "which is saved" in child.output(),
    }


def figures(workdir: Path) -> list[dict[str, object]]:
    rows = [
        json.loads(line)
        for line in (workdir / "student" / "metrics.jsonl").read_text().splitlines()
    ]
    return [
        {name: value for name, value in row.items() if name != "tokens_per_second"} for row in rows
    ]


def main() -> None:
    import bench

    parser = bench.parser(__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--saves", type=int, default=13, help="kills while a checkpoint is written")
    parser.add_argument("--compilations", type=int, default=7)
    parser.add_argument("--anywhere", type=int, default=12)
    options = parser.parse_args()
    where = bench.environment()
    print(f"{bench.describe(where)}; seed {options.seed}", flush=True)
    draw = random.Random(options.seed)
    wanted = (
        ["save"] * options.saves
        + ["compilation"] * options.compilations
        + ["anywhere"] * options.anywhere
    )
    draw.shuffle(wanted)
    root = Path(tempfile.mkdtemp(prefix="crash-"))
    whole = Child.start(root / "whole", 0, root / "cache")
    if whole.process.wait():
        sys.exit(whole.output())
    shutil.copytree(root / "whole" / "data", root / "killed" / "data")  # blocks are the same
    rows: list[bench.Row] = []
    differences = lost = 0
    before = 0
    for number, spot in enumerate([*wanted, None]):
        fresh = root / f"cache-{number}" if spot == "compilation" else root / "cache"
        child = Child.start(root / "killed", number, fresh)
        how = draw.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
        death = kill(child, spot, how, draw) if spot else None
        if death is None:
            child.process.wait()
        output = child.output()
        resumed = (
            int(output.partition("resumes from step ")[2].split(" ")[0] or 0)
            if "resumes from" in output
            else 0
        )
        lost += resumed < before or "damaged" in output
        if death is None:
            if spot or child.process.returncode:
                sys.exit(f"ended before it was killed, or wrongly: {output[-2000:]}")
            break
        before = child.complete()
        rows.append(
            {"name": f"kill {number + 1}", "from": resumed, **death, "complete_after": before}
        )
        print(rows[-1], flush=True)
        shutil.rmtree(root / f"cache-{number}", ignore_errors=True)
    right, found = figures(root / "whole"), figures(root / "killed")
    differences = sum(a != b for a, b in zip(right, found, strict=False)) + abs(
        len(right) - len(found)
    )
    size = sum(
        f.stat().st_size for f in (root / "whole/student/checkpoints/120").rglob("*") if f.is_file()
    )
    counts = {
        spot: sum(row["where"] == spot for row in rows)
        for spot in ("save", "compilation", "anywhere")
    }
    total: bench.Row = {
        "name": f"seed {options.seed}",
        "kills": len(rows),
        **{f"in_{spot}" if spot != "anywhere" else spot: n for spot, n in counts.items()},
        "sigterm": sum(row["signal"] == "SIGTERM" for row in rows),
        "checkpoint_mb": size / 1e6,
        "rows": len(right),
        "differences": differences,
        "lost_checkpoints": lost,
    }
    columns = {name: "" if name == "name" else ",.0f" for name in total}
    bench.show("Killed again and again", [total], columns)
    bench.save(options, [total, *rows], where)
    shutil.rmtree(root)
    sys.exit(1 if differences or lost else 0)


if __name__ == "__main__":
    main()
