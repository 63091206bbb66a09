"""The paper's experiments at CIFAR-10's size: ablations and figure 1, run arm by arm, compared and drawn."""
