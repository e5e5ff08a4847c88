"""MLflow's door: a study's runs, their links, and the server. No other folder imports `mlflow`."""
