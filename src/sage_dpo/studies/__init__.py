"""Grids of arms x conditions x seeds, run as ordinary run folders and told as one table, one JSON and plots.

`config.py` is what a study file may say, `grid.py` turns it into recipes, `execute.py` runs them in child processes,
`outcomes.py` reads the run folders back, `comparisons.py` draws conclusions, `analyses.py` asks the gym's and the
gradients' questions, `study.py` puts it together; `report/study.py` draws the tables and plots.
"""
