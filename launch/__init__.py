"""The programs: the only place with flags, files, clocks and printing."""
