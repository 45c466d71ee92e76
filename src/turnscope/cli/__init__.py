"""The command line: one thin file per command, each calling the front door of its stage."""
