"""What watches the machine: power, energy, use, clocks, heat. One file a vendor, each with ``sources``."""
