"""Rules of credit assignment: how the gradients of a network are found. One file a rule."""
