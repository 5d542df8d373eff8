"""Benchmarks: one file per question asked, each runnable by itself."""
