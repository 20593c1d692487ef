"""Runs the demonstration: `python examples/reference_desk/demo.py`. All of it is in `tour/`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # A script's own folder is on the path, where its neighbours would be modules outside their package.
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    from examples.reference_desk.tour.main import main

    sys.exit(main())
