"""Chat formats, one file each; `registry` lists them, `files` opens what they are stored in."""
