"""What a torch module, a function or a pattern of both is in NIR: one rule for each."""
