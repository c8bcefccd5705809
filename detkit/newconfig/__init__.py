"""A config for one's own data: the data are looked at, and a short file is written that trains. What ``detkit new-config`` runs."""
from detkit.newconfig.run import Outcome, new_config

__all__ = ['Outcome', 'new_config']
