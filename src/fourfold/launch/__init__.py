"""From a checked configuration to cells that ran: sweep, local slots, Slurm, and what a dead cell leaves behind."""
