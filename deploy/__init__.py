"""Put the integer network on a chip: its Lava processes, its plan against the chip's limits, and the report."""
