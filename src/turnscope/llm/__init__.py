"""Calls to language model endpoints: one table is cache, ledger and resume. Knows no transcripts, models or dictionaries."""
