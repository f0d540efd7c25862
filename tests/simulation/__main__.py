import os, sys, time as _t
if os.environ.get("PYTHONHASHSEED") != "0":
    os.environ["PYTHONHASHSEED"] = "0"
    os.execv(sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]])
from pathlib import Path
from tests.simulation.life import Life, install
from tests.simulation.world import Violation
install()
first, number = int(sys.argv[1]), int(sys.argv[2])
began = _t.perf_counter()
jobs = runs = 0
bad = 0
for seed in range(first, first + number):
    life = Life(str(seed), Path(f"/dev/shm/sim-{os.getpid()}"))
    if number == 1:
        print(life.story.manifest)
        for a in life.story.accounts: print(a)
    try:
        life.play()
    except Violation as error:
        bad += 1
        print("seed", seed, error)
        if number == 1:
            import traceback; print("\n".join(life.world.trace)); 
            if error.__cause__: traceback.print_exc()
    else:
        if number == 1: print("\n".join(life.world.trace))
    jobs += life.jobs; runs += life.runs
s = _t.perf_counter() - began
print(f"{number/s:.1f} lives/s, {jobs/number:.1f} creates, {runs/number:.1f} runs, {bad} bad")
