"""What a cell would do on a device that is not here: a trace of its step, a model of the device, an honest error."""
