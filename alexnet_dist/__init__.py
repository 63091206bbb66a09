"""AlexNet (Krizhevsky, Sutskever & Hinton, NIPS 2012) on linked towers, from one laptop to many nodes."""

__version__ = "0.1.0"
