"""Sweeps: many searches in one folder, divided among processes, killed and gone on with."""
