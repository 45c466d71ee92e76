"""The auditor's tools over a finished index: contrast, persona, difference, monitors, reports."""
