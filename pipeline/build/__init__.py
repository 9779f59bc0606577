"""Running what a plan still misses, in this process or on Ray."""
