"""Top layers on frozen features that differ in one training row each: the victims of Table 16, solved as one batch.

`top_layer` trains one layer, `heads` many. Importing this does not import torch.
"""
