"""Objects: large values of runs in a folder or in a bucket; `places.py` reads the setting that names it."""
