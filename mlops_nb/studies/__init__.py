"""Worked studies: domain code, one folder a study, exported from `nbs/studies/`."""
