"""The guarantees as figures: `python -m torture ID --seed S [--full]`."""
