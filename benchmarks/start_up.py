"""Wall time of `weighbridge --help` against `python -c "import typer"`, in the same run.

    python benchmarks/start_up.py [--runs 30]

Runs alternate; the figure is the median of the ratios, pair by pair. The bar is 1.3.
"""

import argparse
import statistics
import subprocess
import sys
import time


def seconds(arguments: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=30)
    runs = parser.parse_args().runs
    ours, theirs = ["-m", "pipeline.commands", "--help"], ["-c", "import typer"]
    seconds(ours), seconds(theirs)
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(runs)]
    print(f"weighbridge --help: median {statistics.median(mine for mine, _ in pairs) * 1e3:.0f} ms")
    print(f"import typer:       median {statistics.median(other for _, other in pairs) * 1e3:.0f} ms")
    print(f"ratio: median {statistics.median(mine / other for mine, other in pairs):.2f}")


if __name__ == "__main__":
    main()
