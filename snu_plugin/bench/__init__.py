"""Side-by-side timings, all candidates in one run."""
