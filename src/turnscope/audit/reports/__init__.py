"""The parts of an audit's report: what is unusual, how far to trust it, what could not be seen."""
