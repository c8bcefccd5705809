"""The model zoo: read, check and search ``model_zoo.json``. Needs neither torch nor a network."""
from detkit.zoo.index import Entry, Weights, find_model, load_index

__all__ = ['Entry', 'Weights', 'find_model', 'load_index']
