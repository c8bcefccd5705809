"""The models that detkit knows: ``model_zoo.json`` read, checked and searched. Neither torch nor a network is needed to ask."""
from detkit.zoo.index import Entry, Weights, find_model, load_index

__all__ = ['Entry', 'Weights', 'find_model', 'load_index']
