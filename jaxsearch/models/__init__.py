"""Networks, what turns them into denoisers, and how their weights are read."""
