"""How a torch model is wired, found by running it: what ``rules`` and ``export`` go by."""
