"""Write a short config that trains on the user's data; used by ``detkit new-config``."""
from detkit.newconfig.run import Outcome, new_config

__all__ = ['Outcome', 'new_config']
