"""Files on a disk: put whole, locked, swept."""
