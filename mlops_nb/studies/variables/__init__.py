"""Variable stars of OGLE-III: from the catalogue to a classifier that is compared honestly with simpler ones."""
