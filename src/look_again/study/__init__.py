"""Experiments on when looking again pays: designs, cells, paired intervals, figures."""
