"""The paper, executable: `python -m alexnet_dist.paper audit` compares the code with its claims."""
