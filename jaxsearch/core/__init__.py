"""The engine: types, noise recipes, processes, evaluation, the search driver and its plan."""
