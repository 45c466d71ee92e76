"""Monitors: a rule or a sparse probe over features as a versioned file, calibrated, run, and watched for drift."""
