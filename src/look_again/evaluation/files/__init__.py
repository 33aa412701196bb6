"""The files of benchmarks: where they lie, on the hub or as published, and how a record becomes an item."""
