"""Benchmarks of the paper: loaders, official and strict scores, runs that resume, comparisons with intervals."""
