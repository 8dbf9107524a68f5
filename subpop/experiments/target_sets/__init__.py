"""The training-set attack of Koh and Liang: one training picture, imperceptibly changed, misleads a frozen network's top layer.

`backbone` turns pictures into features, `ascent` is the attack, and `measure` makes the cells of Table 16; the victims are in
`subpop.victims.top_layers`. Importing this does not import torch.
"""
