"""Recording: the step of a model, and the initial distributions of its parameters."""
