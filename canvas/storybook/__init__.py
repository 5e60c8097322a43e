"""How the embedded model is made: a drawn world with ground truth, and the training of everything upon it.

Only this package needs ``skia-python``; painting with the shipped weights does not import it.
"""
