"""Run as a program: stream batches and write the ids of each step's samples, one JSON line a step.

Arguments: pictures, texts, file, first step, last step, workers, rank, world size, seconds to pause a step.
"""

import json
import sys
import time

from tests.data.corpus import loader, mixture

if __name__ == "__main__":
    pictures, texts, path = sys.argv[1:4]
    start, stop, workers, rank, world_size = map(int, sys.argv[4:9])
    source = loader(mixture(pictures, texts, num_workers=workers), rank=rank, world_size=world_size)
    with open(path, "a", encoding="utf-8") as file:
        for step, batch in source.stream(start, stop):
            file.write(json.dumps([step, rank, list(dict.fromkeys(batch.sample_ids))]) + "\n")
            file.flush()
            time.sleep(float(sys.argv[9]))
