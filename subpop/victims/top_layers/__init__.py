"""Top layers on frozen features, each with one training row changed: the victims of Table 16, solved as one batch.

`top_layer` trains one layer, `heads` many. Importing this package does not import torch.
"""
