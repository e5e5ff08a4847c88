"""MLflow's door: a study's runs, their links, and the server. No other folder imports `mlflow`."""

from ..config.lazy_face import lazy_face

_FACE = {"MlflowStore": ".client", "RunKey": ".runs", "Tracker": ".tracker", "serve": ".server"}

__getattr__ = lazy_face(__name__, _FACE)
