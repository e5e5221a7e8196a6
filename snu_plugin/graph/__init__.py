"""What a trained network is: a NIR graph, read, written, checked and run."""
