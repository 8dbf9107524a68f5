"""The training-set attack of Koh and Liang: one imperceptibly changed training picture misleads a frozen network's top layer.

`backbone` computes features of pictures, `ascent` is the attack, and `measure` measures the cells of Table 16; the victims are
in `subpop.victims.top_layers`. Importing this package does not import torch.
"""
