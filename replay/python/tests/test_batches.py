"""Reads a job from the server at PERENNIAL_URL, whose batches have six rows and whose stream is at rest."""

import faulthandler
import os
import threading
import unittest

import numpy as np

import perennial
from perennial._batch import places

# A test that hangs says where.
faulthandler.dump_traceback_later(1200, exit=True)
URL = os.environ["PERENNIAL_URL"]
STEPS = int(os.environ.get("PERENNIAL_STEPS", "60"))


def read(job, **more):
    return list(perennial.Batches(URL, job, at_end="stop", **more))


def joined(parts, name):
    return np.concatenate([getattr(part, name) for part in parts])


class Arrays(unittest.TestCase):
    def setUp(self):
        self.batches = read("arrays", stop=STEPS)

    def test_every_token_of_a_span_has_its_place_and_its_target(self):
        for batch in self.batches:
            rows, length = batch.tokens.shape
            self.assertEqual((batch.targets.shape, batch.mask.shape), ((rows, length), (rows, length)))
            self.assertEqual((batch.tokens.dtype, batch.mask.dtype), (np.int32, np.bool_))
            covered = np.zeros((rows, length), bool)
            sequences = [(row * length, (row + 1) * length) for row in range(rows)]
            for span in batch.spans.to_pylist():
                row, start, end = span["row"], span["start"], span["start"] + span["tokens"]
                covered[row, start:end] = True
                np.testing.assert_array_equal(batch.positions[row, start:end], np.arange(end - start))
                np.testing.assert_array_equal(batch.tokens[row, start + 1 : end], batch.targets[row, start : end - 1])
                self.assertEqual(span["buffer"] is not None, batch.replayed[row])
                sequences.append((row * length + start, row * length + end))
            np.testing.assert_array_equal(covered, batch.mask)
            edges = sorted({edge for sequence in sequences for edge in sequence})
            np.testing.assert_array_equal(batch.cu_seqlens, edges)
            self.assertEqual(batch.max_seqlen, max(b - a for a, b in zip(edges, edges[1:])))
        self.assertEqual([batch.step for batch in self.batches], list(range(STEPS)))
        self.assertTrue(any(batch.replayed.any() for batch in self.batches))

    def test_places_of_no_rows(self):
        positions, starts = places(self.batches[0].spans.slice(0, 0), 0, 8)
        self.assertEqual((positions.shape, list(starts)), ((0, 8), [0]))

    def test_a_ticket_gives_the_batch_again_in_another_process_of_the_client(self):
        client = perennial.Client(URL)
        for batch in self.batches[::7]:
            again = client.batch(batch.ticket)
            np.testing.assert_array_equal(again.tokens, batch.tokens)
            self.assertEqual(again.spans, batch.spans)
            self.assertEqual(client.ticket("arrays", batch.step), batch.ticket)


class Ranks(unittest.TestCase):
    def test_the_shares_of_any_number_of_ranks_are_the_batch(self):
        whole = read("ranks", stop=STEPS)
        for world in (1, 2, 3, 5, 7, 16):
            ranks = [read("ranks", stop=STEPS, rank=rank, world_size=world) for rank in range(world)]
            for step, parts in enumerate(zip(*ranks, strict=True)):
                for name in ("tokens", "targets", "mask", "positions", "rows", "replayed"):
                    np.testing.assert_array_equal(joined(parts, name), getattr(whole[step], name), f"{world} {step}")
                spans = [row for part in parts for row in part.spans.drop(["row"]).to_pylist()]
                self.assertEqual(spans, whole[step].spans.drop(["row"]).to_pylist())

    def test_ranks_that_read_at_once_get_what_one_gets_alone(self):
        got = [None] * 3

        def run(rank):
            got[rank] = read("at-once", stop=STEPS, rank=rank, world_size=3, prefetch=8)

        threads = [threading.Thread(target=run, args=[rank]) for rank in range(3)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        for step, whole in enumerate(read("at-once", stop=STEPS)):
            np.testing.assert_array_equal(joined([part[step] for part in got], "tokens"), whole.tokens)

    def test_a_rank_outside_of_its_world_is_refused(self):
        for rank, world in ((2, 2), (-1, 1), (0, 0)):
            with self.assertRaises(ValueError):
                perennial.Batches(URL, "a", rank=rank, world_size=world)


class States(unittest.TestCase):
    def test_a_reader_goes_on_where_another_stood(self):
        whole = [batch.tokens for batch in read("states", stop=STEPS)]
        first = perennial.Batches(URL, "states", stop=STEPS)
        seen = []
        for batch in first:
            seen.append(batch.tokens)
            if len(seen) == STEPS // 3:
                break
        state = first.state_dict()
        self.assertEqual(state, {"job": "states", "step": STEPS // 3})
        rest = [perennial.Batches(URL, "states", stop=STEPS, rank=rank, world_size=2) for rank in range(2)]
        [reader.load_state_dict(state) for reader in rest]
        seen += [joined(parts, "tokens") for parts in zip(*rest, strict=True)]
        np.testing.assert_array_equal(np.stack(seen), np.stack(whole))
        with self.assertRaises(ValueError):
            perennial.Batches(URL, "other").load_state_dict(state)

    def test_all_new_text_comes_once_and_the_loop_ends_with_the_stream(self):
        place, tokens = (0, 0), 0
        for batch in read("whole", settings={"rows": 6, "order": "stream", "keep": 1_000_000_000, "mix": {}}):
            for span in batch.spans.to_pylist():
                here = (span["offset"], span["first_token"])
                self.assertTrue(here == place or (here[1] == 0 and here[0] > place[0]), f"{here} after {place}")
                place = (span["offset"], span["first_token"] + span["tokens"])
                tokens += span["tokens"]
        self.assertGreater(tokens, 100_000)


class Errors(unittest.TestCase):
    def test_a_refusal_says_what_the_server_says(self):
        client = perennial.Client(URL)
        ticket = client.ticket("errors", 0)
        for error, words, call in (
            (perennial.RequestError, "is not a job", lambda: client.ticket("a/b", 0)),
            (perennial.RequestError, "too far ahead", lambda: client.ticket("errors", 10**6)),
            (perennial.RequestError, "has 6 rows, not 3 to 9", lambda: client.batch(ticket, (3, 9))),
            (perennial.ConflictError, "was issued under config", lambda: client.batch({**ticket, "config": "0" * 32})),
        ):
            with self.assertRaisesRegex(error, words):
                call()

    def test_a_server_that_is_not_there_is_waited_for_and_then_reported(self):
        with self.assertLogs("perennial", "WARNING") as logs:
            with self.assertRaisesRegex(perennial.ServerError, "did not issue the ticket of step 0 of job `a`"):
                perennial.Client("http://127.0.0.1:1", wait=0.3).ticket("a", 0)
        self.assertIn("does not answer", logs.output[0])

    def test_arguments_that_cannot_be_are_refused(self):
        for wrong in ({"at_end": "no"}, {"start": -1}, {"every": 0}, {"prefetch": 0}):
            with self.assertRaises(ValueError):
                perennial.Batches(URL, "a", **wrong)


if __name__ == "__main__":
    unittest.main()
