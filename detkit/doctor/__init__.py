"""Check data and config before a run."""
from detkit.doctor.examine import doctor

__all__ = ['doctor']
