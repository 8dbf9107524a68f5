"""The training-set attack of Koh and Liang: one training picture, imperceptibly changed, misleads a frozen network's top layer.

`top_layer` is the victim, `heads` many victims that differ in one row each, `backbone` what turns pictures into features, and
`ascent` the attack. Importing this does not import torch.
"""
