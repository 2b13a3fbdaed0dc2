"""The same with PyTorch's DataLoader: processes are killed, and go on with other numbers of ranks and workers."""

import faulthandler
import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import torch

import perennial
from perennial.torch import ReplayDataset, ReplayLoader

# A test that hangs says where.
faulthandler.dump_traceback_later(1200, exit=True)
URL = os.environ["PERENNIAL_URL"]
FULL = os.environ.get("PERENNIAL_TESTS") == "full"
STEPS = int(os.environ.get("PERENNIAL_STEPS", "60"))
WORKERS, RANKS = (8, 4) if FULL else (2, 2)


def rank_main(job, rank, world, workers, folder):
    """One rank: writes what each step gave and, after it, where to go on."""
    loader = ReplayLoader(
        ReplayDataset(URL, job, rank=rank, world_size=world, at_end="stop", stop=STEPS),
        num_workers=workers,
        multiprocessing_context="fork" if workers else None,
    )
    state = Path(folder, f"state-{rank}.json")
    begun = Path(folder, "state.json")
    if begun.exists():
        loader.load_state_dict(json.loads(begun.read_text()))
    for batch in loader:
        torch.save(batch["tokens"], Path(folder, f"{batch['step']}-{world}-{rank}.pt"))
        state.with_suffix(".partial").write_text(json.dumps(loader.state_dict()))
        state.with_suffix(".partial").rename(state)
        print(batch["step"], flush=True)


def start(job, rank, world, workers, folder):
    command = [sys.executable, __file__, job, str(rank), str(world), str(workers), str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


class Loaders(unittest.TestCase):
    def test_any_number_of_workers_gives_the_steps_in_order(self):
        whole = list(perennial.Batches(URL, "workers", stop=STEPS))
        for workers in (0, 1, WORKERS):
            loader = ReplayLoader(ReplayDataset(URL, "workers", stop=STEPS), num_workers=workers)
            got = list(loader)
            self.assertEqual([batch["step"] for batch in got], list(range(STEPS)))
            for batch, expected in zip(got, whole):
                self.assertTrue(torch.equal(batch["tokens"], torch.from_numpy(expected.tokens).long()))
                self.assertTrue(torch.equal(batch["positions"], torch.from_numpy(expected.positions).long()))
                self.assertEqual((batch["tokens"].dtype, batch["mask"].dtype), (torch.int64, torch.bool))
                self.assertEqual(batch["spans"], expected.spans)
            self.assertEqual(loader.state_dict(), {"job": "workers", "step": STEPS})

    def test_ranks_that_are_killed_go_on_with_another_number_of_ranks_and_workers(self):
        whole = list(perennial.Batches(URL, "killed", stop=STEPS))
        with tempfile.TemporaryDirectory() as folder:
            running = [start("killed", rank, RANKS, WORKERS, folder) for rank in range(RANKS)]
            for process in running:
                for line in process.stdout:
                    if int(line) >= STEPS // 3:
                        break
                process.kill()
                process.wait()
                process.stdout.close()
            states = [json.loads(Path(folder, f"state-{rank}.json").read_text()) for rank in range(RANKS)]
            # A job goes on from a step that all of its ranks have finished.
            first = min(state["step"] for state in states)
            self.assertGreater(first, 0)
            Path(folder, "state.json").write_text(json.dumps({"job": "killed", "step": first}))
            rest = [start("killed", rank, 3, 1, folder) for rank in range(3)]
            for process in rest:
                process.communicate()
                self.assertEqual(process.returncode, 0)
            for batch in whole:
                world = RANKS if batch.step < first else 3
                parts = [torch.load(Path(folder, f"{batch.step}-{world}-{rank}.pt")) for rank in range(world)]
                self.assertTrue(torch.equal(torch.cat(parts), torch.from_numpy(batch.tokens).long()), batch.step)

    def test_a_stream_that_ends_ends_the_loop_of_every_worker(self):
        start = len(list(perennial.Batches(URL, "ends", at_end="stop"))) - 20
        loader = ReplayLoader(ReplayDataset(URL, "ends", at_end="stop", start=start), num_workers=WORKERS)
        self.assertEqual([batch["step"] for batch in loader], list(range(start, start + 20)))

    def test_wrong_arguments_are_reported_by_the_dataset_not_by_a_worker(self):
        with self.assertRaises(ValueError):
            ReplayDataset(URL, "a", rank=3, world_size=2)


if __name__ == "__main__":
    if len(sys.argv) == 6:
        job, rank, world, workers, folder = sys.argv[1:]
        rank_main(job, int(rank), int(world), int(workers), folder)
    else:
        unittest.main()
