"""Tokens per second from text to blocks against the tokenizer alone, and peak memory at two corpus
sizes.

    python benchmarks/prepare_throughput.py [--json FILE]

Uses the text of ../shared if it is present, else docstrings.
"""

from __future__ import annotations

import json
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench

from flaxdistill.data.corpus import Corpus, Engine
from flaxdistill.data.preparation.held_out import batched
from flaxdistill.data.preparation.text import prepare
from flaxdistill.data.sources import Source
from flaxdistill.data.tokenizer import Vocabulary, load_vocabulary
from flaxdistill.data.wordpiece import train_wordpiece

SHARED = Path(__file__).resolve().parents[2] / "shared"
TIMES = 4  # how many times as much text the larger corpus has


def source() -> Source:
    """Choose the text."""
    wikipedia = SHARED / "data/corpus/wikipedia-train.parquet"
    return Source(path=str(wikipedia) if wikipedia.exists() else "docstrings")


def cut(folder: Path, shards: int, characters: int) -> None:
    """Write files of at least this many characters each, of different documents."""
    documents = (d for shard in source().shards() for d in shard.documents())
    for number in range(shards):
        with open(folder / f"{number:03d}.jsonl", "w") as file:
            written = 0
            for document in documents:
                file.write(json.dumps({"text": document}) + "\n")
                if (written := written + len(document)) >= characters:
                    break


def vocabulary_in(folder: Path) -> Vocabulary:
    """Write the tokenizer's files to a folder: BERT's, or trained ones."""
    given = SHARED / "tokenizers/bert-base-uncased"
    if given.exists():
        load_vocabulary(given).save(folder)
    else:
        train_wordpiece((d for s in source().shards() for d in s.documents()), 8192).save(folder)
    return load_vocabulary(folder)


def processor_seconds() -> float:
    """Return the CPU seconds of this process and of finished child processes."""
    use = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in use)


def in_turns(
    calls: dict[str, Callable[[], Any]], pairs: int
) -> dict[str, list[tuple[float, float]]]:
    """Time calls in turns: wall seconds each, and CPU seconds, which other processes affect less."""
    used: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for _ in range(pairs):
        for name, call in calls.items():
            began, processor = time.perf_counter(), processor_seconds()
            call()
            used[name].append((time.perf_counter() - began, processor_seconds() - processor))
    return used


def prepared(texts: Path, tokenizer: Path, out: Path, processes: int | None) -> dict[str, Any]:
    """Prepare a folder of texts from the beginning; return the manifest."""
    shutil.rmtree(out, ignore_errors=True)
    corpus = Corpus(sources=(Source(path=str(texts)),), tokenizer=str(tokenizer))
    return prepare(corpus, out, engine=Engine(processes=processes)).manifest


def peaks(texts: Path, tokenizer: Path, out: Path, processes: int | None) -> tuple[int, int]:
    """Prepare in a separate process: return its peak MiB, and that of its largest child process."""
    arguments = [str(path) for path in (texts, tokenizer, out)] + [str(processes or 0)]
    done = subprocess.run(
        [sys.executable, __file__, "--alone", *arguments],
        check=True,
        capture_output=True,
        text=True,
    )
    return tuple(json.loads(done.stdout.splitlines()[-1]))


def alone(texts: str, tokenizer: str, out: str, processes: str) -> None:
    """Run one preparation for ``peaks``."""
    prepared(Path(texts), Path(tokenizer), Path(out), int(processes) or None)
    # Not ru_maxrss, which begins with what the parent held; of the workers there is no other.
    own = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    theirs = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(json.dumps([int(n) // 1024 for n in (*own, theirs)]))


def measure(folder: Path, shards: int, options: Any) -> dict[str, Any]:
    """Compare a corpus of several files with the tokenizer alone: one row of the table."""
    texts = {times: folder / f"texts-{times}" for times in (1, TIMES)}
    for times, path in texts.items():
        path.mkdir()
        # More files where there are several, a longer one where there is one.
        cut(
            path,
            shards * (times if shards > 1 else 1),
            options.characters * (1 if shards > 1 else times) // shards,
        )
    tokenizer, out = folder / "tokenizer", folder / "out"
    vocabulary = vocabulary_in(tokenizer)
    documents = [d for shard in Source(path=str(texts[1])).shards() for d in shard.documents()]

    def bare() -> None:
        vocabulary.tokenizer.encode_special_tokens = True
        for batch in batched(documents):
            vocabulary.tokenizer.encode_batch_fast(batch, add_special_tokens=False)

    def ours() -> None:
        prepared(texts[1], tokenizer, out, options.processes)

    used = in_turns({"ours": ours, "bare": bare}, options.pairs)
    seconds, processor = (
        {name: [pair[n] for pair in own] for name, own in used.items()} for n in (0, 1)
    )
    entries = prepared(texts[1], tokenizer, out, options.processes)["train"]
    tokens = sum(len(ids) for batch in batched(documents) for ids in vocabulary.encode(batch))
    small, large = (peaks(path, tokenizer, out, options.processes) for path in texts.values())
    return {
        "name": f"{shards} files" if shards > 1 else "1 file",
        "tokens": tokens,
        "blocks": sum(entry["rows"] for entry in entries),
        **{
            f"{name}_tokens_per_second": tokens / statistics.median(s)
            for name, s in seconds.items()
        },
        "ratio": bench.ratio(seconds["ours"], seconds["bare"]),
        "processor_ratio": bench.ratio(processor["ours"], processor["bare"]),
        "main_mib": small[0],
        f"main_mib_{TIMES}_times": large[0],
        "worker_mib": small[1],
        f"worker_mib_{TIMES}_times": large[1],
        "turns_seconds": seconds,
        "processor_seconds": processor,
    }


def main() -> None:
    parser = bench.parser(__doc__)
    parser.add_argument("--characters", type=int, default=16_000_000, help="of the smaller corpus")
    parser.add_argument(
        "--shards", type=int, nargs="+", default=[8, 1], help="files that it is cut into"
    )
    parser.add_argument(
        "--processes", type=int, help="of the preparation; its own choice if left out"
    )
    parser.add_argument("--pairs", type=int, default=3)
    options = parser.parse_args()
    where = bench.environment()
    print(bench.describe(where), flush=True)
    table = []
    for shards in options.shards:
        with tempfile.TemporaryDirectory() as folder:
            table.append(measure(Path(folder), shards, options))
    columns = {
        "name": "",
        "tokens": ",d",
        "ours_tokens_per_second": ",.0f",
        "bare_tokens_per_second": ",.0f",
    }
    columns |= {"ratio": ".2f", "processor_ratio": ".2f"}
    columns |= {
        f"{who}_mib{more}": ",d" for who in ("main", "worker") for more in ("", f"_{TIMES}_times")
    }
    bench.show("from text to blocks", table, columns)
    bench.save(options, table, where, bars=("ours_tokens_per_second", "bare_tokens_per_second"))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--alone"]:
        alone(*sys.argv[2:])
    else:
        main()
