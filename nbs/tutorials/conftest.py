"""Let nbval check notebooks that nbdev-clean has cleaned."""


def pytest_itemcollected(item):
    """Give each cell a count again.

    nbdev-clean takes the execution counts away, and nbval refuses a cell that has outputs and no count ("Unrun reference cell has outputs"),
    and does not look at the outputs of one that has neither.
    """
    cell = getattr(item, "cell", None)  # only items of nbval have one
    if cell is not None and cell.get("execution_count") is None:
        cell["execution_count"] = 1
