"""Exchange formats, one file for each direction."""
