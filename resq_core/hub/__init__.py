"""Published weights on this machine: downloaded, verified and under official names."""

from resq_core.hub.download import Limits
from resq_core.hub.pull import Pulled, cache_dir, pull

__all__ = ["Limits", "Pulled", "cache_dir", "pull"]
