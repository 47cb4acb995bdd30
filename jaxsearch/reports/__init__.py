"""Reports: what a run or a sweep has found, as one page for a browser."""
