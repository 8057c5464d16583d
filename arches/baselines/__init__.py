"""What is beyond the baselines of the targets: instruction-set extensions, by Capstone's groups and by names.

The groups are those that Capstone 5 gives; where it has none, or one that is too wide, the names are those of the
manuals that are cited. All of it is compared with GNU as, told the baseline, by tests/test_baseline.py.
"""
