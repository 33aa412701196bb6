"""Benchmarks of the paper's tables: loaders, official and strict scores, runs that resume, comparisons with intervals."""
