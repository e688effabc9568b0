"""Stores what diffusers' schedulers make of the toy model of tests/schedule_runs.py, in schedules_diffusers.npz.

python tests/golden/make_schedule_goldens.py        (needs torch and diffusers; made with diffusers 0.42.1)
"""

import sys
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import schedule_runs

STEP_COUNTS = (1, 2, 8, 50)

if __name__ == "__main__":
    runs = {" ".join(map(str, run)): schedule_runs.run_diffusers(*run)[1] for run in schedule_runs.diffusers_runs(STEP_COUNTS)}
    np.savez_compressed(Path(__file__).with_name("schedules_diffusers.npz"), **runs)
    print(f"{len(runs)} runs")
