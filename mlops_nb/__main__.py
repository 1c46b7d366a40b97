"""`python -m mlops_nb` is `mlops-nb`."""

from .cli import main

main()
