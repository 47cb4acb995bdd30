"""Run folders: what was asked for, what came of it, and the means to go on or to make it again."""
